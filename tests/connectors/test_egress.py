"""Sources and the way out: what a source names is judged when it is made, synced and called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentcy_ray.connectors.csv import CsvConnector
from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.connectors.json import JsonConnector
from agentcy_ray.connectors.live_sessions import FRESH_SECS
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.source_records import NewSource, SourceChange
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.errors import EgressDeniedError, SourceConfigError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect, ToolRequest
from agentcy_ray.stores.egress_pins import Pins
from tests.connectors.git.repos import Repo
from tests.connectors.git.server import GitServer
from tests.wire import (
    DnsResolver,
    DnsServer,
    certificates,
    dns_server,
    forward_proxy,
    redirect,
    reply,
    wire,
)

TABLE = reply(b"id,name\n1,one\n")
OPEN = ("127.0.0.2/32",)
"""The one address that stands for a public one."""

SourcesOf = Callable[..., SourceStore]


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with dns_server() as server:
        server.names["public.example"] = [["127.0.0.2"]]
        server.names["inner.example"] = [["127.0.0.1"]]
        yield server


@pytest.fixture
def sources_of(make_store, connector_settings, dns) -> SourcesOf:
    """A store whose connectors resolve by the test's name server, under these settings."""

    def make(**settings: Any) -> SourceStore:
        changed = connector_settings.model_copy(
            update={"egress_private_cidrs": OPEN, "agentcy_features_demo": False, **settings}
        )
        connectors = [CsvConnector(), JsonConnector(), GitConnector()]
        resolver = DnsResolver(dns.port)
        return make_store(Registry(connectors, changed, resolver=resolver))

    return make


def csv(url: str, **fields: Any) -> NewSource:
    config = {"url": url, "node_label": "Row", "id_column": "id"}
    return NewSource(name=f"s-{new_id().hex}", connector="csv", config=config, **fields)


def git(url: str, auth: str = "none", **fields: Any) -> NewSource:
    kinds = {
        "none": {"kind": "none"},
        "token": {"kind": "https_token", "token": "canary-token"},
        "ssh": {"kind": "ssh_key", "private_key": "canary-key"},
    }
    config = {"url": url, "auth": kinds[auth]}
    return NewSource(name=f"s-{new_id().hex}", connector="git", config=config, **fields)


FORMS: dict[str, Callable[[str], NewSource]] = {
    "csv": lambda host: csv(f"http://{host}/t.csv"),
    "json": lambda host: NewSource(
        name=f"s-{new_id().hex}", connector="json",
        config={"url": f"https://{host}/t.json", "node_label": "Row"},
    ),
    "git": lambda host: git(f"http://{host}/x.git"),
    "git by https": lambda host: git(f"https://{host}:8443/x.git", "token"),
    "git by ssh": lambda host: git(f"ssh://git@{host}/x.git", "ssh"),
}  # fmt: skip
PLACES = [
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]",
    "localhost", "metadata.google.internal", "inner.example",
]  # fmt: skip


@pytest.mark.attack
@pytest.mark.requirement("CON-06")
@pytest.mark.parametrize("form", FORMS)
async def test_a_source_of_an_inner_place_is_not_made(sources_of, org, dns, form):
    dns.names["localhost"] = [["127.0.0.1"]]
    store = sources_of()
    for place in PLACES:
        with pytest.raises(EgressDeniedError) as caught:
            await store.create(org.owner, FORMS[form](place), check=True)
        assert caught.value.code == "egress_denied", place
        assert "canary" not in str(caught.value.body())
    assert await store.list(org.id) == []


@pytest.mark.attack
@pytest.mark.requirement("CON-06")
async def test_a_short_ssh_url_is_judged_too(sources_of, org):
    for host in ("127.0.0.1", "inner.example", "2130706433"):
        with pytest.raises(EgressDeniedError):
            await sources_of().create(org.owner, git(f"git@{host}:a/x.git", "ssh"), check=True)


def call(source: Any, tool: str) -> ToolRequest:
    return ToolRequest(
        tool_call_id=new_id(), org_id=source.org_id, source_id=source.id, connector="git",
        tool=tool, args={}, effect=Effect.READ, idempotency_key="key",
        deadline=datetime.now(UTC) + timedelta(seconds=60),
    )  # fmt: skip


@pytest.fixture
def served(tmp_path):
    """A git server on all of loopback, with one repository."""
    (tmp_path / "served").mkdir()
    Repo(tmp_path / "served/x.git").commit({"a.txt": b"one\n"})
    server = GitServer(tmp_path / "served", host="0.0.0.0", password=None)
    yield server
    server.close()


@pytest.mark.attack
@pytest.mark.requirement("CON-06")
async def test_a_name_that_turns_inward_stops_syncs_and_tool_calls(sources_of, org, dns, served):
    store = sources_of()
    new = git(served.url("x.git", host="public.example"))
    source = await store.create(org.owner, new, check=True)
    pool = SessionPool(store)
    try:
        assert (await pool.call(call(source, "log"))).ok
        seen = served.requests
        dns.names["public.example"] = [["127.0.0.1"]]
        async with pool.session(org.id, source.id) as session:
            with pytest.raises(EgressDeniedError):
                _ = [item async for item in session.extract({}, full=True)]
            session._mirror._stamp.unlink()  # no look at the mirror that is fresh enough
        outcome = await pool.call(call(source, "log"))
        assert (outcome.ok, outcome.error_code) == (False, "egress_denied")
        assert served.requests == seen
    finally:
        await pool.close()


@pytest.mark.requirement("CON-05")
async def test_a_source_reaches_only_what_it_pins(sources_of, org, dns):
    dns.names["other.example"] = [["127.0.0.2"]]
    store = sources_of()
    async with wire("127.0.0.2") as server:
        server.answers |= {"/t.csv": TABLE, "/away": redirect(server.url(host="other.example"))}
        here, there = (server.url("/t.csv", host=f"{name}.example") for name in ("public", "other"))
        pins = {"hosts": ["public.example"], "ports": [server.port], "cidrs": ["127.0.0.2/32"]}
        source = await store.create(org.owner, csv(here, egress=pins), check=True)
        assert source.egress == Pins.model_validate(pins)
        away = csv(server.url("/away", host="public.example"), egress=pins)
        for new in (
            csv(there, egress=pins),
            away,
            csv(here, egress={"hosts": ["*.public.example"]}),
            csv(here, egress={"ports": [80, 443]}),
            csv(here, egress={"cidrs": ["127.0.0.3/32"]}),
        ):
            with pytest.raises(EgressDeniedError) as caught:
                await store.create(org.owner, new, check=True)
            assert (caught.value.status, caught.value.code) == (403, "egress_denied")
        assert len([head for head in server.heads if b"other" in head]) == 0
        assert len(await store.list(org.id)) == 1


@pytest.mark.requirement("CON-05")
async def test_pins_open_nothing_and_are_written_as_hosts(sources_of, org):
    with pytest.raises(EgressDeniedError):
        await sources_of().create(
            org.owner, csv("http://127.0.0.1/", egress={"cidrs": ["127.0.0.0/8"]}), check=True
        )
    for wrong in ({"hosts": ["https://x.example/"]}, {"ports": [0]}, {"cidrs": ["x"]},
                  {"tls_sha256": "12"}, {"url": "x"}):  # fmt: skip
        with pytest.raises(ValueError, match="validation error"):
            csv("http://public.example/", egress=wrong)


@pytest.mark.requirement("CON-05")
async def test_new_pins_hold_for_sessions_that_are_open(sources_of, org, served):
    store = sources_of()
    source = await store.create(
        org.owner, git(served.url("x.git", host="public.example")), check=True
    )
    now = 0.0
    pool = SessionPool(store, clock=lambda: now)
    try:
        assert (await pool.call(call(source, "log"))).ok
        changed = await store.update(
            org.owner, source.id, SourceChange(egress=Pins(hosts=("public.example",)))
        )
        assert changed.config_version == source.config_version + 1
        assert changed.egress.hosts == ("public.example",)
        with pytest.raises(EgressDeniedError):
            await store.update(org.owner, source.id, SourceChange(egress=Pins(hosts=("x.io",))))
        now += FRESH_SECS + 1
        assert (await pool.call(call(source, "log"))).ok
    finally:
        await pool.close()


@pytest.mark.requirement("CON-05")
async def test_only_hosts_that_the_operator_allows_are_reached(sources_of, org):
    store = sources_of(egress_allowed_hosts=("*.public.example", "data.example"))
    with pytest.raises(EgressDeniedError, match="EGRESS_ALLOWED_HOSTS"):
        await store.create(org.owner, csv("http://public.example/"), check=True)


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """Certificates of an authority that this process trusts, as ``SSL_CERT_FILE`` names it."""
    made = certificates(tmp_path, "public.example", "data.corp-data.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    return made


async def test_a_pinned_certificate_must_be_shown_and_be_valid(sources_of, org, tls, tmp_path):
    store = sources_of()
    async with wire("127.0.0.2", tls=tls.server) as server:
        server.answers["/t.csv"] = TABLE
        url = server.url("/t.csv", host="public.example", scheme="https")
        pinned = csv(url, egress={"tls_sha256": tls.sha256.upper()})
        assert (await store.create(org.owner, pinned, check=True)).egress.tls_sha256 == tls.sha256
        wrong = csv(url, egress={"tls_sha256": "0" * 64})
        with pytest.raises(EgressDeniedError, match="another certificate"):
            await store.create(org.owner, wrong, check=True)
        seen = len(server.heads)
        named = csv(server.url("/t.csv", host="127.0.0.2", scheme="https"))
        with pytest.raises(SourceConfigError, match="certificate"):  # it is for other names
            await store.create(org.owner, named, check=True)
        plain = csv(server.url(host="public.example"), egress={"tls_sha256": tls.sha256})
        with pytest.raises(EgressDeniedError, match="https"):
            await store.create(org.owner, plain, check=True)
        assert len(server.heads) == seen


@pytest.mark.attack
async def test_no_redirect_leads_from_https_to_http(sources_of, org, tls):
    async with wire("127.0.0.2", tls=tls.server) as secure, wire("127.0.0.2") as plain:
        plain.answers["/t.csv"] = secure.answers["/t.csv"] = TABLE
        secure.answers["/down"] = redirect(plain.url("/t.csv", host="public.example"))
        plain.answers["/up"] = redirect(secure.url("/t.csv", host="public.example", scheme="https"))
        down = csv(secure.url("/down", host="public.example", scheme="https"))
        with pytest.raises(EgressDeniedError, match="from https to http"):
            await sources_of().create(org.owner, down, check=True)
        assert plain.heads == []
        up = csv(plain.url("/up", host="public.example"))
        await sources_of().create(org.owner, up, check=True)


async def test_a_stranger_s_certificate_is_not_accepted(sources_of, org, tmp_path):
    made = certificates(tmp_path, "public.example")
    async with wire("127.0.0.2", tls=made.server) as server:
        url = server.url("/t.csv", host="public.example", scheme="https")
        with pytest.raises(SourceConfigError, match="certificate") as caught:
            await sources_of().create(org.owner, csv(url), check=True)
        assert caught.value.details["kind"] == "unreachable"
        assert server.heads == []


@pytest.mark.requirement("CON-04")
@pytest.mark.parametrize("login", ["", "agent:s3cret"])
async def test_connectors_go_out_by_the_proxy(sources_of, org, tls, served, tmp_path, login, dns):
    name = "data.corp-data.example"  # known to the proxy alone
    async with (
        wire("127.0.0.1", tls=tls.server) as secure,
        wire("127.0.0.1") as plain,
        forward_proxy(tmp_path, login) as proxy,
    ):
        secure.answers["/t.csv"] = plain.answers["/t.csv"] = TABLE
        store = sources_of(https_proxy=proxy.url, http_proxy=proxy.url)
        for new in (
            csv(secure.url("/t.csv", host=name, scheme="https")),
            csv(plain.url("/t.csv", host=name)),
            git(served.url("x.git", host=name)),
        ):
            await store.create(org.owner, new, check=True)
        assert proxy.lines()[0] == f"CONNECT {name}:{secure.port} HTTP/1.1"
        assert proxy.lines()[1] == f"GET http://{name}:{plain.port}/t.csv HTTP/1.1"
        assert any(f"GET http://{name}" in line and "x.git" in line for line in proxy.lines())
        assert b"roxy-" not in b"".join(secure.heads)
        assert dns.asked == []
        seen = len(proxy.lines())
        for place in ("127.0.0.1", "169.254.169.254", "metadata.google.internal", "intranet",
                      "db.internal", "0x7f.1"):  # fmt: skip
            for url in (f"http://{place}/t.csv", f"https://{place}/t.csv"):
                with pytest.raises(EgressDeniedError):
                    await store.create(org.owner, csv(url), check=True)
        pinned = csv(f"https://{name}/", egress={"hosts": ["x.example"]})
        with pytest.raises(EgressDeniedError):
            await store.create(org.owner, pinned, check=True)
        ranged = csv(f"https://{name}/", egress={"cidrs": ["93.184.216.0/24"]})
        with pytest.raises(EgressDeniedError, match="proxy resolves"):
            await store.create(org.owner, ranged, check=True)
        assert len(proxy.lines()) == seen


@pytest.mark.requirement("CON-04")
async def test_git_by_https_goes_through_the_proxy_with_tls_to_the_server(
    sources_of, org, tls, tmp_path, served
):
    name = "data.corp-data.example"
    served.secure(tls.server)
    async with forward_proxy(tmp_path) as proxy:
        store = sources_of(https_proxy=proxy.url)
        url = served.url("x.git", host=name).replace("http:", "https:")
        source = await store.create(
            org.owner, git(url, egress={"tls_sha256": tls.sha256}), check=True
        )
        pool = SessionPool(store)
        assert (await pool.call(call(source, "log"))).ok
        await pool.close()
        port = url.split(":")[2].split("/")[0]
        assert set(proxy.lines()) == {f"CONNECT {name}:{port} HTTP/1.1"}
        with pytest.raises(EgressDeniedError, match="another certificate"):
            await store.create(org.owner, git(url, egress={"tls_sha256": "0" * 64}), check=True)


@pytest.mark.requirement("CON-04")
async def test_no_proxy_names_hosts_that_are_reached_directly(sources_of, org, tmp_path):
    async with wire("0.0.0.0") as server, forward_proxy(tmp_path) as proxy:
        server.answers["/t.csv"] = TABLE
        url = server.url("/t.csv", host="public.example")
        for without in (
            ("public.example",),
            (".example",),
            ("*",),
            ("x.io", "example:1", "*.example"),
        ):
            store = sources_of(http_proxy=proxy.url, no_proxy=without)
            await store.create(org.owner, csv(url), check=True)
        assert proxy.lines() == []
        store = sources_of(http_proxy=proxy.url, no_proxy=("lic.example", "public.example:1"))
        await store.create(org.owner, csv(url), check=True)
        assert len(proxy.lines()) == 1


@pytest.mark.attack
async def test_git_follows_no_redirect_to_another_host(sources_of, org, served, dns):
    async with wire("127.0.0.2") as server:
        for target in (
            served.url("x.git/info/refs?service=git-upload-pack", host="other.example"),
            served.url("x.git/info/refs?service=git-upload-pack", host="127.0.0.1"),
            "http://169.254.169.254/info/refs?service=git-upload-pack",
        ):
            dns.names["other.example"] = [["127.0.0.2"]]
            server.answers["/x.git/info/refs?service=git-upload-pack"] = redirect(target)
            url = server.url("/x.git", host="public.example")
            with pytest.raises(EgressDeniedError):
                await sources_of().create(org.owner, git(url), check=True)
    assert served.requests == 0
