"""``python -m agentcy_ray.devkyma``: run an engine until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

from agentcy_ray.devkyma.config import Config, S3Options, parse_tokens
from agentcy_ray.devkyma.server import serve

GC_THRESHOLD = 200_000
"""A block of parsed rows is garbage at once; looking for cycles among them is wasted."""


def configure(arguments: list[str]) -> Config:
    """The configuration that the arguments say.

    Raises:
        ValueError: tokens or S3 options are malformed.
        OSError: a file cannot be read.
    """
    parser = argparse.ArgumentParser(prog="agentcy_ray.devkyma", description=__doc__)
    parser.add_argument("--data", required=True, help="a folder, or s3://bucket/prefix")
    parser.add_argument("--catalog", type=Path, help="folder of the catalog, for data on S3")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--flight-port", type=int, required=True)
    parser.add_argument("--tokens-file", type=Path, help="lines token:role; none: all are admins")
    parser.add_argument("--s3-file", type=Path, help="JSON: endpoint, region, access_key_id, …")
    parser.add_argument("--header-prefix", choices=("kyma", "pensieve"), default="kyma")
    parser.add_argument("--flight-auth", action="store_true", help="ask for a token on Flight too")
    parser.add_argument("--test-switches", action="store_true", help="open /dev/faults")
    given = parser.parse_args(arguments)
    tokens = parse_tokens(given.tokens_file.read_text()) if given.tokens_file else {}
    s3 = S3Options(**json.loads(given.s3_file.read_text())) if given.s3_file else S3Options()
    return Config(
        data=given.data,
        http_port=given.http_port,
        flight_port=given.flight_port,
        tokens=tokens,
        header_prefix=given.header_prefix,
        test_switches=given.test_switches,
        flight_auth=given.flight_auth,
        catalog=given.catalog,
        s3=s3,
    )


async def run(config: Config) -> None:
    """Serve until a signal asks to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config) as running:
        print(json.dumps({"http": running.http_url, "flight": running.flight_url}), flush=True)
        await stop.wait()


def main() -> None:
    """Run, or say why not."""
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    try:
        asyncio.run(run(configure(sys.argv[1:])))
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"devkyma: {error}")


if __name__ == "__main__":
    main()
