"""Compressed answers that mean no harm; those that do are in ``test_ssrf.py``."""

from __future__ import annotations

import pytest

from agentcy_ray.stores.http_body import decoder_of
from agentcy_ray.stores.http_client import open_http
from tests.egress import loopback_guard
from tests.stores.test_ssrf import deflated
from tests.wire import reply, wire


@pytest.mark.parametrize(
    ("encoding", "bits"), [("gzip", 31), ("deflate", 15), ("deflate", -15), ("x-gzip", 31)]
)
async def test_what_is_compressed_in_good_faith_arrives(encoding, bits):
    text = bytes(range(256)) * 5_000
    async with wire() as server:
        server.answers["/"] = reply(deflated(text, bits), f"Content-Encoding: {encoding}")
        async with open_http(loopback_guard()) as client:
            assert (await client.get(server.url())).content == text


@pytest.mark.parametrize("step", [1, 2, 7, 5_000, 10_000_000])
@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_compressed_data_may_come_in_pieces_of_any_size(encoding, bits, step):
    text = bytes(600_000) + bytes(range(256)) * 10
    packed = deflated(text, bits)
    if encoding == "gzip":
        text, packed = text * 2, packed * 2  # members follow one another
    decoder, found = decoder_of(encoding), bytearray()
    assert decoder is not None
    for at in range(0, len(packed), step):
        for piece in decoder.feed(packed[at : at + step]):
            assert len(piece) <= 256 * 1024
            found += piece
    decoder.finish()
    assert found == text
