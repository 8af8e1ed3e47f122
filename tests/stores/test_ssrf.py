"""Attacks on the way out: addresses in disguise, names that lie, redirects, bombs."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import EgressDeniedError, SourceConfigError, TooLargeError
from agentcy_ray.stores.addresses import RANGES, kind_of, parse_literal, unwrap
from agentcy_ray.stores.egress import Egress, Guard
from agentcy_ray.stores.http import fetch
from agentcy_ray.stores.http_client import open_http
from tests.egress import loopback_guard, strict_guard
from tests.wire import DnsResolver, DnsServer, dns_server, names_of, redirect, reply, wire

pytestmark = pytest.mark.attack


def words(text: str) -> list[str]:
    """What is parted by blanks."""
    return text.split()


ADDRESSES = words("""
127.0.0.1 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1
172.31.255.255 192.168.0.1 192.168.255.255 169.254.0.1 169.254.169.254 169.254.170.2
169.254.170.23 100.64.0.1 100.127.255.255 100.100.100.200 168.63.129.16 192.0.0.1 192.0.0.192
192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255 [::1] [::] [fc00::1] [fd12:3456::1] [fd00:ec2::254]
[fd20:ce::254] [fe80::1] [febf::1] [fec0::1] [ff02::1] [100::1] [2001:db8::1] [2001:10::1]
[3fff::1] [4000::1] [5f00::1] [::2]
""")
"""Places that are not on the public Internet, plainly written."""

DISGUISES = words("""
2130706433 0x7f000001 0x7F000001 017700000001 0177.0.0.1 0x7f.0.0.1 0x7f.1 127.1 127.0.1 0 0x0
00000177.0.0.1 127.0.0.01 0251.0376.0251.0376 0xa9fea9fe 2852039166 10.1 192.168.257 127.0.0.1.
169.254.169.254. 1.2.3.4.5 999.1.1.1 256.0.0.1 1.2.3.4x.5 [::ffff:127.0.0.1] [::ffff:7f00:1]
[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [0:0:0:0:0:ffff:7f00:1] [::127.0.0.1] [::7f00:1]
[::ffff:0:127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b::10.0.0.1]
[64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2001:0:7f00:1::1]
[2001:0:4136:e378:8000:63bf:3fff:fdd2] [2600::5efe:7f00:1] [2600::200:5efe:7f00:1]
[fe80::1%25eth0] [fe80::1%eth0] [::1%25lo] [::1 \uff11\uff12\uff17.0.0.1
127\u30020\u30020\u30021 \u2460\u2461\u2466.0.0.1 \u0661\u0662\u0667.0.0.1 %31%32%37.0.0.1
127%2e0%2e0%2e1 127.0.0.1%00 127.0.0.1%2f.example.com
\uff11\uff12\uff17\uff0e0\uff0e0\uff0e1 0\uff58\uff17f.1 127.0.0.1\u3002 [::ffff:0x7f.1]
[0000::1%251] 0x7f000001.
""")
"""The same places, written so that a careless check takes them for something else."""

NAMES = words("""
localhost LOCALHOST localhost. foo.localhost %6c%6f%63alhost loc\xadalhost \u24dbocalhost
metadata.google.internal METADATA.Google.Internal. metadata instance-data kubernetes.default.svc
a..b -a.example example.com- exa_mple..com .example.com \uff4cocalhost localhost\u3002 localhost..
metadata\uff0egoogle\uff0einternal \u24dcetadata.google.internal metadata.google.internal\u3002
""")
"""Names that mean such places, and some that no server can have."""

URLS = [
    "file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://127.0.0.1/", "dict://x:11211/",
    "ldap://127.0.0.1/", "data:text/plain,x", "jar:http://x!/", "unix:///var/run/docker.sock",
    "http://", "http:///x", "//127.0.0.1/", "127.0.0.1:80", "http:127.0.0.1",
    "http://good.example@127.0.0.1/", "http://me:pw@good.example/", "http://good.example\\@127.0.0.1/",
    "http://127.0.0.1:80@good.example/", "http://good.example:80:80/", "http://127.0.0.1\t/",
    "http://127.0.0.1\r\nHost: x/", "http:\\\\127.0.0.1\\x", "http://[::1", "http://::1/",
    "http://good.example:99999/", "http://93.184.216.34:65536/", "http://93.184.216.34:0/",
]  # fmt: skip
"""URLs that are refused as such."""

ANSWERS = {
    "inside": ["10.0.0.7"], "loop": ["127.0.0.1"], "six": ["::1"], "mapped": ["::ffff:127.0.0.1"],
    "nat64": ["64:ff9b::a9fe:a9fe"], "teredo": ["2001:0:7f00:1::1"], "six2four": ["2002:7f00:1::"],
    "cloud": ["169.254.169.254"], "cloud6": ["fd00:ec2::254"], "azure": ["168.63.129.16"],
    "zero": ["0.0.0.0"], "cgnat": ["100.64.1.1"], "mixed": ["93.184.216.34", "127.0.0.1"],
    "mixed6": ["93.184.216.34", "fd00::1"], "hidden": ["2606:2800:220:1::1", "::ffff:10.0.0.1"],
    "wide": ["224.0.0.251"], "all": ["255.255.255.255"], "isatap": ["2600::5efe:a00:1"],
    "many": [*(f"93.184.216.{n}" for n in range(20)), "10.0.0.1"],
}  # fmt: skip
"""What a name server of the attacker says."""


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with dns_server() as server:
        server.names.update({f"{name}.evil.example": [found] for name, found in ANSWERS.items()})
        yield server


async def refused(url: str, guard: Guard, folder: Path) -> None:
    """Refused as a source's URL, and by a client that is given it."""
    with pytest.raises((EgressDeniedError, SourceConfigError)) as caught:
        await fetch(url, folder / "got", guard=guard, max_bytes=1000)
    if isinstance(caught.value, SourceConfigError):
        assert caught.value.details["kind"] == "config"
    assert not (folder / "got").exists()
    async with open_http(guard) as client:
        with pytest.raises((EgressDeniedError, httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
            await client.get(url)


@pytest.mark.requirement("CON-06")
@pytest.mark.requirement("SEC-04")
@pytest.mark.parametrize("host", [*ADDRESSES, *DISGUISES])
async def test_an_address_that_is_not_public_is_refused(dns, host, tmp_path):
    await refused(f"http://{host}/", strict_guard(DnsResolver(dns.port)), tmp_path)
    await refused(f"https://{host}:8443/x?y", strict_guard(DnsResolver(dns.port)), tmp_path)
    assert dns.asked == []


@pytest.mark.requirement("CON-06")
@pytest.mark.parametrize("host", NAMES)
async def test_a_name_of_an_inner_place_is_refused(dns, host, tmp_path):
    dns.names.update({name: [["127.0.0.1"]] for name in ("localhost", "foo.localhost")})
    await refused(f"http://{host}/", strict_guard(DnsResolver(dns.port)), tmp_path)


@pytest.mark.requirement("CON-06")
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_name_of_which_any_answer_is_not_public_is_refused(dns, name, tmp_path):
    guard = strict_guard(DnsResolver(dns.port))
    with pytest.raises(EgressDeniedError) as caught:
        await fetch(f"http://{name}.evil.example/", tmp_path / "got", guard=guard, max_bytes=9)
    assert dns.asked == [f"{name}.evil.example"]
    assert not any(address in str(caught.value.body()) for address in ANSWERS[name])


@pytest.mark.parametrize("url", URLS)
async def test_a_url_of_another_kind_is_refused(dns, url, tmp_path):
    guard = strict_guard(DnsResolver(dns.port))
    with pytest.raises((EgressDeniedError, SourceConfigError)) as caught:
        await fetch(url, tmp_path / "got", guard=guard, max_bytes=9)
    assert "pw" not in str(caught.value.body())
    assert dns.asked == []


@pytest.mark.parametrize("host", ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]"])
async def test_metadata_stays_closed_to_operators_and_in_open_ranges(host):
    wide = AccessSettings(egress_private_cidrs=("0.0.0.0/0", "::/0"))
    for guard in (Egress(wide).guard("tenant"), Egress(wide).guard("operator")):
        with pytest.raises(EgressDeniedError, match="metadata"):
            guard.check("http", host, 80)
    named = AccessSettings(egress_private_cidrs=(f"{host.strip('[]')}",))
    Egress(named).guard("tenant").check("http", host, 80)


async def test_an_operator_s_own_network_is_open_to_settings_alone():
    for host in ("10.1.2.3", "127.0.0.1", "100.64.0.9", "[fd12::1]"):
        Egress(AccessSettings()).guard("operator").check("http", host, 80)
        with pytest.raises(EgressDeniedError):
            Egress(AccessSettings()).guard("tenant").check("http", host, 80)


@pytest.mark.requirement("CON-06")
async def test_a_name_that_changes_its_meaning_reaches_only_what_was_judged(dns):
    async with wire("127.0.0.2") as allowed, wire("127.0.0.1", allowed.port) as victim:
        dns.names["swap.example"] = [["127.0.0.2"], ["127.0.0.1"]]
        only = AccessSettings(egress_private_cidrs=("127.0.0.2/32",))
        guard = Egress(only, DnsResolver(dns.port)).guard("tenant")
        url = allowed.url(host="swap.example")
        async with open_http(guard) as client:
            assert (await client.get(url)).text == "ok"
            assert dns.asked == ["swap.example"]  # judged and connected to by one look-up
            assert (await client.get(url)).text == "ok"  # the kept connection stays where it is
            assert (len(allowed.heads), allowed.connections) == (2, 1)
        async with open_http(guard) as client:
            with pytest.raises(EgressDeniedError):
                await client.get(url)
        assert names_of(allowed.heads, "host") == [f"swap.example:{allowed.port}"] * 2
        assert victim.connections == 0


REDIRECTS = [
    "http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]/",
    "http://0x7f.1:{port}/", "http://169.254.169.254/latest/meta-data/", "http://2130706433/",
    "http://loop.evil.example:{port}/", "http://cloud.evil.example/", "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/", "http://127.0.0.2:99999/", "http://good@127.0.0.1:{port}/", "http://[::ffff:127.0.0.1]/",
]  # fmt: skip


@pytest.mark.requirement("CON-06")
@pytest.mark.parametrize("target", REDIRECTS)
async def test_a_redirect_is_judged_like_the_first_url(dns, target, tmp_path):
    async with wire("127.0.0.2") as public, wire("127.0.0.1", public.port) as victim:
        public.answers["/far"] = redirect(target.format(port=public.port))
        public.answers["/"] = redirect("/near")
        public.answers["/near"] = redirect("/far")
        only = AccessSettings(egress_private_cidrs=("127.0.0.2/32",))
        guard = Egress(only, DnsResolver(dns.port)).guard("tenant")
        with pytest.raises((EgressDeniedError, SourceConfigError)):
            await fetch(public.url(), tmp_path / "got", guard=guard, max_bytes=9)
        async with open_http(guard) as client:
            with pytest.raises((EgressDeniedError, httpx2.HTTPError)):
                await client.get(public.url(), follow_redirects=True)
        assert len(public.heads) == 6
        assert victim.connections == 0


async def test_credentials_end_where_an_origin_ends(tmp_path):
    async with wire("127.0.0.2") as own, wire("127.0.0.3") as other:
        own.answers["/"] = redirect(other.url("/x"), "Set-Cookie: session=1; Path=/")
        other.answers["/x"] = redirect(own.url("/back"), "Set-Cookie: other=1")
        secrets = {"Authorization": "Bearer s", "X-Api-Key": "s", "Cookie": "a=b"}
        await fetch(
            own.url(), tmp_path / "got", guard=loopback_guard(), headers=secrets, max_bytes=9
        )
        for name, sent in (("authorization", "Bearer s"), ("x-api-key", "s"), ("cookie", "a=b")):
            assert names_of(own.heads, name) == [sent, None]
            assert names_of(other.heads, name) == [None]


@pytest.mark.parametrize("name", ["Host", "host ", "Transfer-Encoding", "Content-Length",
                                  "Proxy-Authorization", "Connection"])  # fmt: skip
async def test_headers_that_steer_a_request_are_nobody_s_to_set(name, tmp_path):
    async with wire() as server:
        with pytest.raises(SourceConfigError, match="header"):
            await fetch(
                server.url(), tmp_path / "got", guard=loopback_guard(), headers={name: "x"},
                max_bytes=9,
            )  # fmt: skip
        async with open_http(loopback_guard()) as client:
            with pytest.raises(EgressDeniedError, match="Host header"):
                await client.get(server.url(), headers={"Host": "inner.example"})
        assert server.heads == []


NO_HEADERS = [
    ("X-Key", f"s3cret{end}") for end in ("\r\nHost: in", "\nX: 1", "\0", "\u2028", "\xe9")
]
NO_HEADERS += [(name, "s3cret") for name in ("X\r\nHost", "X Y", "X:", "", "X-K\xe9y")]


@pytest.mark.parametrize("header", NO_HEADERS)
async def test_a_header_that_is_none_is_refused_without_telling_its_value(header, tmp_path):
    async with wire() as server:
        with pytest.raises(SourceConfigError, match="header") as caught:
            await fetch(
                server.url(), tmp_path / "got", guard=loopback_guard(), headers=dict([header]),
                max_bytes=9,
            )  # fmt: skip
        assert "s3cr" not in str(caught.value.body())
        assert server.connections == 0


def deflated(data: bytes, bits: int) -> bytes:
    """``bits`` say the form: 31 gzip, 15 zlib, -15 bare deflate."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return packer.compress(data) + packer.flush()


ZEROS = bytes(30_000_000)
BOMBS = {
    "gzip": reply(deflated(ZEROS, 31), "Content-Encoding: gzip"),
    "x-gzip": reply(deflated(ZEROS, 31), "Content-Encoding: X-GZIP"),
    "zlib": reply(deflated(ZEROS, 15), "Content-Encoding: deflate"),
    "deflate": reply(deflated(ZEROS, -15), "Content-Encoding: deflate"),
    "members": reply(gzip.compress(ZEROS[:900_000]) * 9, "Content-Encoding: gzip"),
    "members of nothing": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    + gzip.compress(b"") * 60_000,
    "plain": reply(ZEROS[:2_000_000]),
    "endless": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"10000\r\n" + bytes(0x10000) + b"\r\n" + (b"10000\r\n" + bytes(0x10000) + b"\r\n") * 40,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
async def test_an_answer_is_bounded_by_what_it_decompresses_to(name, tmp_path):
    async with wire() as server:
        server.answers["/"] = BOMBS[name]
        with pytest.raises(TooLargeError):
            await fetch(server.url(), tmp_path / "x", guard=loopback_guard(), max_bytes=1_000_000)
        assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size <= 1_000_000
        async with open_http(loopback_guard(), max_bytes=1_000_000) as client:
            with pytest.raises(TooLargeError):
                await client.get(server.url())


ILL = {
    "nested": reply(gzip.compress(gzip.compress(b"x")), "Content-Encoding: gzip, gzip"),
    "twice": reply(gzip.compress(b"x"), "Content-Encoding: gzip", "Content-Encoding: gzip"),
    "brotli": reply(b"\x0b\x02\x80x\x03", "Content-Encoding: br"),
    "zstd": reply(b"x", "Content-Encoding: zstd"),
    "layers": reply(b"x", "Content-Encoding: br, deflate;q=1, gzip"),
    "unknown": reply(b"x", "Content-Encoding: bomb"),
    "garbage": reply(b"not gzip", "Content-Encoding: gzip"),
    "cut": reply(gzip.compress(b"x" * 1000)[:-9], "Content-Encoding: gzip"),
    "headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "many": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 60_000 + b"\r\n",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@pytest.mark.parametrize("name", ILL)
async def test_an_answer_that_cannot_be_trusted_is_a_fault_of_the_server(name, tmp_path):
    async with wire() as server:
        server.answers["/"] = ILL[name]
        with pytest.raises(SourceConfigError) as caught:
            await fetch(server.url(), tmp_path / "x", guard=loopback_guard(), max_bytes=1_000_000)
        assert caught.value.details["kind"] == "unreachable"


SLOW = {
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx",
    "head": b"HTTP/1.1 200 OK\r\nX-A: ",
    "not yet": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0000000",
}


@pytest.mark.parametrize("name", SLOW)
async def test_an_answer_that_never_ends_is_given_up_on(name, tmp_path):
    async with wire() as server:
        server.answers["/"] = SLOW[name]
        async with open_http(loopback_guard(), total_secs=0.3) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.get(server.url())


async def test_connections_are_kept_and_cookies_are_not():
    async with wire() as server:
        server.answers["/"] = reply(b"ok", "Set-Cookie: a=b; Path=/")
        async with open_http(loopback_guard()) as client:
            for _ in range(5):
                assert (await client.get(server.url())).text == "ok"
        assert (len(server.heads), server.connections) == (5, 1)
        assert names_of(server.heads, "cookie") == [None] * 5


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "::ffff:{}", "64:ff9b::{}"]))
def test_what_counts_as_public_is_public_to_others_too(number: int, form: str) -> None:
    plain = IPv4Address(number)
    kind = kind_of(ip_address(form.format(plain)))
    assert kind == kind_of(plain)
    assert kind is not None or plain.is_global


@given(st.integers(0, 2**128 - 1))
def test_an_ipv6_address_is_public_only_among_the_global_ones(number: int) -> None:
    for address in (IPv6Address(number), IPv6Address(number >> 3 | 1 << 125)):
        if kind_of(address) is None:
            assert unwrap(address).is_global
            assert address in IPv6Network("2000::/3") or unwrap(address) != address


@pytest.mark.parametrize("network", RANGES, ids=str)
def test_a_range_is_closed_up_to_its_edges(network: str) -> None:
    place = ip_network(network)
    edges = place.network_address, place.broadcast_address, place[place.num_addresses // 2]
    assert all(kind_of(address) is not None for address in edges)


@given(st.integers(0, 2**32 - 1), st.data())
def test_no_number_that_a_resolver_reads_as_an_address_is_a_name(number: int, data: Any) -> None:
    """Every spelling that ``inet_aton`` takes is an address to us, or is refused."""
    count = data.draw(st.integers(1, 4))
    parts = [number >> 24 & 255, number >> 16 & 255, number >> 8 & 255][: count - 1]
    parts.append(number & (1 << 8 * (5 - count)) - 1)
    spell = st.sampled_from(["{}", "0{:o}", "0x{:x}", "0X{:X}", "00{:o}"])
    text = ".".join(data.draw(spell).format(part) for part in parts)
    assert socket.inet_aton(text) == IPv4Address(number).packed
    try:
        found = parse_literal(text)
    except ValueError:
        return
    assert found == IPv4Address(number)
