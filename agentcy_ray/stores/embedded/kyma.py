"""An engine that speaks kyma's contract: our own ``devkyma``, in a process of its own.

Its catalog lies in the state folder, its data there too or in the bucket of the settings; which of
them is decided once, when the folder is made. Both ports ask for a token.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.embedded.layout import Layout, kept_password, write_private
from agentcy_ray.stores.embedded.processes import StopStep
from agentcy_ray.stores.embedded.server import Launch, Server

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings

PROGRAM = "agentcy_ray.devkyma"
PROBE_SECS = 5.0
BUCKET = "bucket.json"
S3_FILE = "s3.json"


class Kyma(Server):
    """The embedded Advanced engine."""

    name: ClassVar = "kyma"
    program: ClassVar = PROGRAM
    port_names: ClassVar = ("http", "flight")
    stop_steps: ClassVar[tuple[StopStep, ...]] = ((signal.SIGTERM, 15.0),)
    death_signal: ClassVar = signal.SIGTERM

    async def prepare(self) -> None:
        """Write the token where only we may read it, not on the command line."""
        self.data.mkdir(exist_ok=True, mode=0o700)
        self._token = kept_password(self.data / "token")
        write_private(self.data / "tokens", f"{self._token}:write\n")

    def launch(self) -> Launch:
        """This Python with the engine as its main module."""
        bucket = _bucket(self.data)
        place = bucket or str(self.data / "data")
        s3 = ("--s3-file", str(self.data / S3_FILE)) if bucket else ()
        return Launch(
            argv=(
                *(sys.executable, "-m", PROGRAM),
                *("--data", place, "--catalog", str(self.data / "catalog"), *s3),
                *("--http-port", str(self.ports["http"])),
                *("--flight-port", str(self.ports["flight"])),
                *("--tokens-file", str(self.data / "tokens"), "--flight-auth"),
            ),
            cwd=self.data,
        )

    async def probe(self) -> bool:
        """``GET /health`` is the contract's one probe."""
        try:
            return (await asyncio.to_thread(self._health))["status"] == "ok"
        except (OSError, ValueError, KeyError):
            return False

    async def provision(self) -> str:
        """Nothing to create: tables come with their first row."""
        return f"devkyma {(await asyncio.to_thread(self._health)).get('version', '?')}"

    def endpoints(self) -> dict[str, str]:
        """Both addresses and the token."""
        return {
            "kyma_url": f"http://127.0.0.1:{self.ports['http']}",
            "kyma_flight_url": f"grpc://127.0.0.1:{self.ports['flight']}",
            "kyma_token": self._token,
        }

    def _health(self) -> dict[str, Any]:
        # no proxy: the server is on loopback, whatever HTTP_PROXY says
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.ports['http']}/health"
        with opener.open(url, timeout=PROBE_SECS) as answer:
            return json.loads(answer.read())


def choose_place(layout: Layout, settings: Settings) -> None:
    """Note where the engine's data shall lie, before its first start.

    That is the bucket of ``S3_BUCKET`` when its keys are set too, else the state folder.

    Raises:
        ConfigError: the data lie somewhere else already.
    """
    folder = layout.data(Kyma.name)
    asked = None
    keys = (settings.s3_access_key_id, settings.s3_secret_access_key)
    if settings.s3_bucket is not None and all(keys):
        prefix = settings.s3_prefix.strip("/")
        asked = f"s3://{settings.s3_bucket}/{prefix + '/' if prefix else ''}kyma"
    if (folder / "catalog").exists() and _bucket(folder) != asked:
        raise ConfigError(
            f"the embedded engine keeps its data in {_bucket(folder) or folder / 'data'}; give it "
            "the same S3_BUCKET, S3_PREFIX and keys as at its first start, or set KYMA_BASE_URL"
        )
    if asked is None:
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    write_private(folder / BUCKET, json.dumps({"data": asked}))
    secrets = [key.get_secret_value() if key is not None else None for key in keys]
    options = {
        "endpoint": settings.s3_endpoint,
        "region": settings.s3_region,
        "access_key_id": secrets[0],
        "secret_access_key": secrets[1],
    }
    write_private(folder / S3_FILE, json.dumps(options))


def _bucket(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / BUCKET).read_text())["data"])
    except FileNotFoundError:
        return None
