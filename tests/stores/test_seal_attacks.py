"""Sealed secrets that were moved, changed or cut: none of them opens."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.core.errors import SealBrokenError
from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.keys.install import key_id_of
from agentcy_ray.stores.vault import NONCE_BYTES, Sealed, Vault
from tests.conftest import AttackScale

pytestmark = pytest.mark.attack
KEY, FORMER, OTHERS = b"k" * 32, b"f" * 32, b"o" * 32
PARTS = tuple(part.name for part in fields(Sealed))


@dataclass(frozen=True)
class Row:
    """A stored secret and where it lies."""

    org: UUID
    source: UUID
    version: int
    sealed: Sealed

    @property
    def aad(self) -> str:
        return f"credentials/{self.org.hex}/{self.source.hex}/{self.version}"


async def row(vault: Vault, org: UUID, source: UUID, version: int) -> Row:
    place = Row(org, source, version, Sealed(b"", b"", b"", ""))
    return replace(place, sealed=await vault.seal(place.aad.encode(), place.aad))


@pytest.fixture(scope="module")
def vault() -> Vault:
    return Vault(KEY, previous=FORMER)


@pytest.fixture(scope="module")
async def mine(vault: Vault) -> Row:
    return await row(vault, new_id(), new_id(), 2)


@pytest.fixture(scope="module", params=["version", "source", "org", "former key"])
async def other(request: pytest.FixtureRequest, vault: Vault, mine: Row) -> Row:
    match request.param:
        case "version":
            return await row(vault, mine.org, mine.source, 1)
        case "source":
            return await row(vault, mine.org, new_id(), 2)
        case "org":
            return await row(vault, new_id(), mine.source, 2)
        case _:
            return await row(Vault(FORMER), new_id(), new_id(), 2)


async def opened(vault: Vault, sealed: Sealed, aad: str) -> bytes | None:
    try:
        return await vault.open(sealed, aad)
    except SealBrokenError:
        return None


@pytest.mark.requirement("CON-02")
@pytest.mark.parametrize(
    "parts", [taken for size in range(1, 5) for taken in combinations(PARTS, size)]
)
async def test_parts_of_another_row_open_nothing(
    vault: Vault, mine: Row, other: Row, parts: tuple[str, ...]
) -> None:
    assert await opened(vault, mine.sealed, mine.aad) == mine.aad.encode()
    taken: dict[str, Any] = {part: getattr(other.sealed, part) for part in parts}
    mixed = replace(mine.sealed, **taken)
    if mixed != mine.sealed:  # two rows under one key differ in all but its id
        assert await opened(vault, mixed, mine.aad) is None
    if mixed != other.sealed:
        assert await opened(vault, mixed, other.aad) is None


@pytest.mark.parametrize("part", ["ciphertext", "nonce", "wrapped_key"])
async def test_a_changed_bit_anywhere_is_noticed(
    vault: Vault, mine: Row, part: str, attack_scale: AttackScale
) -> None:
    value: bytes = getattr(mine.sealed, part)
    bits = range(8) if attack_scale == "long" else (0, 7)
    for at in range(len(value)):
        for bit in bits:
            flipped = value[:at] + bytes([value[at] ^ (1 << bit)]) + value[at + 1 :]
            broken: dict[str, Any] = {part: flipped}
            assert await opened(vault, replace(mine.sealed, **broken), mine.aad) is None, (at, bit)


@pytest.mark.parametrize("part", ["ciphertext", "nonce", "wrapped_key"])
async def test_what_was_cut_or_drawn_out_is_noticed(vault: Vault, mine: Row, part: str) -> None:
    value: bytes = getattr(mine.sealed, part)
    for other in (*(value[:size] for size in range(len(value))), value + b"\0", b"\0" + value):
        broken: dict[str, Any] = {part: other}
        assert await opened(vault, replace(mine.sealed, **broken), mine.aad) is None, len(other)


async def test_a_packed_secret_that_was_changed_or_cut_is_noticed(vault: Vault, mine: Row) -> None:
    packed = mine.sealed.pack()
    broken = [packed[:size] for size in range(len(packed))]
    broken += [
        packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :] for at in range(len(packed))
    ]
    broken += [packed + b"\0", b"\x01" + packed[1:], b"\x02\xff\xff" + packed[3:], b"\x02" * 300]
    for value in broken:
        with pytest.raises(SealBrokenError):
            await vault.open(Sealed.unpack(value), mine.aad)
    assert await vault.open(Sealed.unpack(packed), mine.aad) == mine.aad.encode()


async def test_neither_another_key_nor_one_that_was_given_up_opens(vault: Vault, mine: Row) -> None:
    former = await row(Vault(FORMER), mine.org, mine.source, 2)
    for key, sealed in ((OTHERS, mine.sealed), (KEY, former.sealed)):
        for key_id in (sealed.key_id, key_id_of(key), "", "0" * 12, "vault://transit/a#v1"):
            assert await opened(Vault(key), replace(sealed, key_id=key_id), mine.aad) is None
    # While both are at hand, the id decides: a secret is not tried with the other one.
    for sealed, wrong in ((mine.sealed, FORMER), (former.sealed, KEY)):
        swapped = replace(sealed, key_id=key_id_of(wrong))
        assert await opened(vault, swapped, mine.aad) is None


async def test_a_secret_without_authentication_is_none(vault: Vault, mine: Row) -> None:
    """A downgrade: no tag, an empty one, or a nonce of a length that GCM would take as well."""
    sealed = mine.sealed
    for ciphertext in (b"", sealed.ciphertext[:-16], sealed.ciphertext[:-4], bytes(16)):
        assert await opened(vault, replace(sealed, ciphertext=ciphertext), mine.aad) is None
    for size in (0, 8, NONCE_BYTES + 4, 64):
        assert await opened(vault, replace(sealed, nonce=bytes(size)), mine.aad) is None
    for blob in (b"", bytes(60), sealed.wrapped_key[:44], b"\xff" * 4096):
        assert await opened(vault, replace(sealed, wrapped_key=blob), mine.aad) is None
