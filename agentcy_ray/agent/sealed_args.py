"""Arguments that hold secrets, kept encrypted while their call waits.

A row shows arguments masked. A call outside of a run has no other copy of them, so what the mask
hides is sealed beside it, until the call has ended: whoever takes the call up can make it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.core.redaction import Redactor
from agentcy_ray.stores.vault import NONCE_BYTES, Sealed, Vault

_ID_BYTES = 12
_WRAPPED_BYTES = 60
"""A nonce of 12, a key of 32 and a tag of 16."""


class SealedArguments:
    """Masks arguments, and seals them where the mask hides something."""

    def __init__(self, redactor: Redactor, vault: Vault | None) -> None:
        self._redactor = redactor
        self._vault = vault

    def mask(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments as people and rows may show them."""
        return self._redactor.json(args, by_field=True)

    def seal(self, org_id: UUID, call_id: UUID, args: dict[str, Any]) -> bytes | None:
        """The arguments encrypted for this call; None when nothing in them is hidden."""
        if self._vault is None or self.mask(args) == args:
            return None
        sealed = self._vault.seal(orjson.dumps(args), _owner(org_id, call_id))
        return sealed.key_id.encode() + sealed.wrapped_key + sealed.nonce + sealed.ciphertext

    def open(self, org_id: UUID, call_id: UUID, packed: bytes) -> dict[str, Any]:
        """What ``seal`` was given.

        Raises:
            SealBrokenError: it was changed, is another call's, or its key is gone.
        """
        assert self._vault is not None
        wrapped, nonce = _ID_BYTES + _WRAPPED_BYTES, _ID_BYTES + _WRAPPED_BYTES + NONCE_BYTES
        sealed = Sealed(
            ciphertext=packed[nonce:],
            nonce=packed[wrapped:nonce],
            wrapped_key=packed[_ID_BYTES:wrapped],
            key_id=packed[:_ID_BYTES].decode(),
        )
        return orjson.loads(self._vault.open(sealed, _owner(org_id, call_id)))


def _owner(org_id: UUID, call_id: UUID) -> str:
    return f"{org_id}:{call_id}:args"
