"""git by ssh: to a server whose key is known, through the gate, and to no other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pygit2
import pytest

from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.connectors.git.known_hosts import keys_of
from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import EgressDeniedError, SourceConfigError
from agentcy_ray.stores.egress import Egress
from tests.connectors.git.repos import Repo
from tests.connectors.graph import extracted, open_session
from tests.wire import DnsResolver, dns_server

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="the test's server runs git's own")


@dataclass
class SshServer:
    port: int
    host_key: str
    client_key: str
    seen: list[str]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SshServer]:
    """An ssh server of its own that runs git's commands on one folder."""
    (tmp_path / "served").mkdir()
    Repo(tmp_path / "served/x.git").commit({"a.txt": b"one\n"})
    host, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    keys = tmp_path / "authorized"
    keys.write_bytes(client.export_public_key())
    running = SshServer(
        0, host.export_public_key().decode().strip(), client.export_private_key().decode(), []
    )

    async def command(process: asyncssh.SSHServerProcess[bytes]) -> None:
        running.seen.append(process.command or "")
        program, _, path = (process.command or "").partition(" ")
        folder = tmp_path / "served" / path.strip("'").lstrip("/")
        git = await asyncio.create_subprocess_exec(
            *program.split("-", 1), str(folder), stdin=-1, stdout=-1
        )
        await process.redirect(stdin=git.stdin, stdout=git.stdout)
        process.exit(await git.wait())

    listener = await asyncssh.listen(
        "127.0.0.2", 0, server_host_keys=[host], authorized_client_keys=str(keys),
        process_factory=command, encoding=None,
    )  # fmt: skip
    running.port = listener.get_port()
    yield running
    listener.close()
    await listener.wait_closed()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The home folder of the service's user, as libgit2 finds it."""
    before, folder = pygit2.settings.homedir, tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    pygit2.settings.homedir = str(folder)
    yield folder
    pygit2.settings.homedir = before


def known(home: Path, *lines: str) -> None:
    (home / ".ssh/known_hosts").write_text("".join(f"{line}\n" for line in lines))


async def opened(server: SshServer, url: str, folder: Path, port: int):
    guard = Egress(AccessSettings(egress_private_cidrs=("127.0.0.2/32",)), DnsResolver(port))
    auth = {"kind": "ssh_key", "private_key": server.client_key}
    return await open_session(
        GitConnector(), {"url": url, "auth": auth}, folder, guard=guard.guard("tenant")
    )


async def test_a_server_with_a_known_key_is_reached_through_the_gate(server, tmp_path, home):
    known(home, f"[git.example]:{server.port} {server.host_key}")
    async with dns_server(**{"git.example": ["127.0.0.2"]}) as dns:
        url = f"ssh://git@git.example:{server.port}/x.git"
        session = await opened(server, url, tmp_path / "work", dns.port)
        await session.check()
        graph = await extracted(session)
        assert len(graph.of("GitCommit")) == 1
        assert graph.of("GitRepository").keys() == {url}
        assert set(server.seen) == {"git-upload-pack '/x.git'"}
        dns.names["git.example"] = [["127.0.0.1"]]
        with pytest.raises(EgressDeniedError):
            await session.check()


@pytest.mark.parametrize("case", ["unknown", "another", "revoked"])
async def test_a_server_whose_key_is_not_known_gets_no_credentials(server, tmp_path, home, case):
    place = f"[git.example]:{server.port}"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    lines = {
        "unknown": [f"git.example {server.host_key}"],
        "another": [f"{place} {other}"],
        "revoked": [f"{place} {server.host_key}", f"@revoked {place} {server.host_key}"],
    }[case]
    known(home, *lines)
    async with dns_server(**{"git.example": ["127.0.0.2"]}) as dns:
        url = f"ssh://git@git.example:{server.port}/x.git"
        session = await opened(server, url, tmp_path / "work", dns.port)
        with pytest.raises(SourceConfigError, match="host key"):
            await session.check()
    assert server.seen == []


def test_known_hosts_is_read_as_ssh_reads_it(tmp_path):
    hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-rsa AAAA"
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(
        f"# a comment\n\n{hashed}\ngit.example,10.0.0.1 ssh-ed25519 BBBB comment\n"
        "*.example,!secret.example ssh-rsa CCCC\n@cert-authority * ssh-rsa DDDD\n"
        "[git.example]:2222 ssh-rsa EEEE\nbroken\n"
    )
    keys = {
        ("192.168.1.61", 22): ["ssh-rsa AAAA"],
        ("git.example", 22): ["ssh-ed25519 BBBB", "ssh-rsa CCCC"],
        ("GIT.example", 2222): ["ssh-rsa EEEE"],
        ("secret.example", 22): [],
        ("elsewhere.io", 22): [],
    }
    assert {place: keys_of(tmp_path, *place) for place in keys} == keys
    assert keys_of(tmp_path / "absent", "git.example", 22) == []
