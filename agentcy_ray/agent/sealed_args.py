"""Arguments that hold secrets, kept encrypted while their call waits.

A row shows arguments masked. A call outside of a run has no other copy of them, so what the mask
hides is sealed beside it, until the call has ended: whoever takes the call up can make it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.core.redaction import Redactor
from agentcy_ray.stores.vault import Sealed, Vault


class SealedArguments:
    """Masks arguments, and seals them where the mask hides something."""

    def __init__(self, redactor: Redactor, vault: Vault | None) -> None:
        self._redactor = redactor
        self._vault = vault

    def mask(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments as people and rows may show them."""
        return self._redactor.json(args, by_field=True)

    async def seal(self, org_id: UUID, call_id: UUID, args: dict[str, Any]) -> bytes | None:
        """The arguments encrypted for this call; None when nothing in them is hidden.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        if self._vault is None or self.mask(args) == args:
            return None
        sealed = await self._vault.seal_briefly(orjson.dumps(args), _owner(org_id, call_id))
        return sealed.pack()

    async def open(self, org_id: UUID, call_id: UUID, packed: bytes) -> dict[str, Any]:
        """What ``seal`` was given.

        Raises:
            SealBrokenError: it was changed, is another call's, or its key is gone.
            StoreUnavailableError: the key service does not answer.
        """
        assert self._vault is not None
        opened = await self._vault.open(Sealed.unpack(packed), _owner(org_id, call_id))
        return orjson.loads(opened)


def _owner(org_id: UUID, call_id: UUID) -> str:
    return f"{org_id}:{call_id}:args"
