"""What the two vendors' forms have in common."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from agentcy_ray.api.error_shapes import Dialect, written
from agentcy_ray.api.errors import fault_of
from agentcy_ray.api.routes.v1.pieces import Pieces, Spoken
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.ids import base32, encode
from agentcy_ray.llm.model import ToolUse

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an answer before it begins."""

    id: UUID
    created: int
    """Unix time in seconds."""
    model: str
    """As the caller named it."""
    request_id: str
    asked_tokens: int
    """Estimated, for a form that tells them first."""
    run_id: UUID | None = None
    include_usage: bool = False

    def named(self, prefix: str) -> str:
        """The answer's id in a vendor's form."""
        return f"{prefix}{base32(self.id.int)}"

    @property
    def notes(self) -> dict[str, Any] | None:
        """``x_agentcy`` of the beginning."""
        return None if self.run_id is None else {"run_id": encode("run", self.run_id)}


class Writer(Protocol):
    """Puts an answer into a vendor's form."""

    def body(self, head: Head, spoken: Spoken) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...

    def frames(self, head: Head, pieces: Pieces) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; a failure of the source is the last of them."""
        ...


def late_error(error: AgentcyError, head: Head, dialect: Dialect) -> dict[str, Any]:
    """The body of an error that comes when the status line is out already."""
    log.warning("answer failed", code=error.code, error=error.message, request_id=head.request_id)
    _, body, _ = written(fault_of(error, head.request_id), dialect)
    return body


def arguments_of(call: ToolUse) -> str:
    """A call's arguments as JSON text, or as the model wrote them when they are no JSON object."""
    return json.dumps(call.args, ensure_ascii=False) if call.invalid is None else call.invalid
