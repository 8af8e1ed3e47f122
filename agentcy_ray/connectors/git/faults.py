"""What libgit2 reports, as errors of ours that name the next step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pygit2

from agentcy_ray.connectors.config import FaultKind, fault
from agentcy_ray.core.errors import AgentcyError, ConnectorError

LIBRARY_ERRORS = (pygit2.GitError, KeyError, ValueError, OSError)
"""What pygit2 raises when a repository is at fault (its own errors derive from these)."""

_SIGNS: tuple[tuple[tuple[str, ...], FaultKind, str], ...] = (
    (
        ("429", "rate limit"),
        "rate_limited",
        "the server asks to slow down; sync less often or use a token of its own",
    ),
    (
        ("hostkey", "host key"),
        "credentials",
        "the server's SSH host key is not known; add it to the known_hosts of the service's user",
    ),
    (
        ("401", "authentication", "credential", "publickey", "passphrase", "username", "keypair"),
        "credentials",
        "the server refused the credentials; check auth, or add it for a private repository",
    ),
    (
        ("403", "forbidden", "permission denied"),
        "scope",
        "the credentials do not reach this repository; give them read access (write to push)",
    ),
    (
        ("404", "not found", "does not exist", "not appear to be", "unsupported url"),
        "config",
        "there is no repository at this URL; check its spelling",
    ),
    (
        ("resolve", "connect", "timed out", "timeout", "unreachable", "ssl", "tls", "certificate",
         "proxy", "eof", "socket", "status code: 5", "recv", "reset"),
        "unreachable",
        "the server cannot be reached; check the URL, the network and HTTPS_PROXY",
    ),
)  # fmt: skip


def remote_fault(error: Exception, url: str) -> AgentcyError:
    """The typed form of what went wrong while talking to ``url``."""
    text = str(error).strip()
    lower = text.lower()
    for signs, kind, advice in _SIGNS:
        if any(sign in lower for sign in signs):
            return fault(kind, f"{url}: {advice} ({text})", loc="url")
    return ConnectorError(f"{url}: git failed ({text}); try again, then check the server")


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Turn faults of a repository that is being read into a ``ConnectorError``."""
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise ConnectorError(
            f"{what} cannot be read ({error}); run git fsck on it, or remove its mirror"
        ) from error
