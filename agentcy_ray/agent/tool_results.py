"""What a tool gave, made fit to be shown: redacted, bounded, the whole kept as an artifact."""

from __future__ import annotations

from typing import Any

import orjson
import structlog

from agentcy_ray.agent.artifacts import Artifacts
from agentcy_ray.agent.backend import Answer
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.core.errors import BackendError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolFault, ToolResult, ToolStatus

DIRECT_BYTES = 1024 * 1024
"""Bound of a direct call's result: its reader is a program, not a model's window."""
_HEAD, _TAIL = 0.6, 0.25  # shares of the bound; the rest is for the frame
_log = structlog.get_logger(__name__)


class ResultShaper:
    """Turns a backend's answer into the result that may leave the gateway."""

    def __init__(self, artifacts: Artifacts, redactor: Redactor, settings: Settings) -> None:
        self._artifacts = artifacts
        self._redactor = redactor
        self._model_bytes = settings.agent_tool_result_bytes
        self._largest = settings.tool_max_result_bytes

    async def shape(self, ctx: CallContext, opened: OpenCall, answer: Answer) -> ToolResult:
        """The result; cut, with an ``artifact`` event, when it is past the bound."""
        result = ToolResult(
            tool_call_id=opened.tool_call_id,
            status=answer.status,
            usage_ms=answer.usage_ms,
            approval_id=opened.approval.id if opened.approval else None,
        )
        if answer.fault is not None:
            message = self._redactor.text(answer.fault.message)
            result.error = ToolFault(code=answer.fault.code, message=message)
            return result
        value, text = answer.value, answer.encoded
        if text is None or isinstance(value, str) or not self._redactor.harmless(text):
            value = self._redactor.json(value)
            text = value.encode() if isinstance(value, str) else orjson.dumps(value, default=str)
        if len(text) > self._largest:
            result.error = ToolFault(
                code="result_too_large",
                message=f"the result takes {len(text)} bytes, more than {self._largest}; "
                "ask for less: a smaller limit, a filter, a narrower path",
            )
            if not opened.effect.consequential:
                result.status = ToolStatus.ERROR
            return result
        bound = self._model_bytes if ctx.run_id else DIRECT_BYTES
        if len(text) > bound:
            is_text = isinstance(value, str)
            await self._cut(ctx, opened, result, text, bound, is_text=is_text)
        else:
            result.result = value
            result.encoded = None if isinstance(value, str) else text
        return result

    async def _cut(
        self,
        ctx: CallContext,
        opened: OpenCall,
        result: ToolResult,
        text: bytes,
        bound: int,
        *,
        is_text: bool,
    ) -> None:
        name = f"{opened.call.connector}.{opened.call.tool}{'.txt' if is_text else '.json'}"
        frame: dict[str, Any] = {"truncated": True, "bytes": len(text)}
        try:
            artifact = await self._artifacts.store(
                ctx.org_id, name, text,
                media_type="text/plain" if is_text else "application/json",
                kind="tool_result", run_id=ctx.run_id, created_by=ctx.principal.user_id,
            )  # fmt: skip
        except BackendError as error:
            # The call has happened: its receipt and its audit entry must not hang on a copy.
            _log.error("tool_result_not_kept", tool=name, problem=error.message)
            frame["note"] = "the middle is lost: the whole result could not be kept; ask for less"
        else:
            result.artifact_id = artifact.id
            frame["artifact_id"] = encode("art", artifact.id)
            frame["note"] = (
                "the middle is left out; the artifact holds the whole result. To read on, call "
                "again for less: a smaller limit, a filter, a narrower path"
            )
            await ctx.emit(
                EventType.ARTIFACT,
                {
                    "artifact_id": encode("art", artifact.id),
                    "name": artifact.name,
                    "media_type": artifact.media_type,
                    "bytes": artifact.bytes,
                },
            )
        result.result, result.truncated = _framed(text, bound, frame), True


def _framed(text: bytes, bound: int, frame: dict[str, Any]) -> dict[str, Any]:
    """Head and tail of ``text`` in ``frame``, within ``bound`` bytes of JSON."""
    size = bound
    while True:
        head = text[: int(size * _HEAD)].decode(errors="ignore")
        tail = text[-max(int(size * _TAIL), 1) :].decode(errors="ignore")
        cut = {**frame, "head": head, "tail": tail}
        over = len(orjson.dumps(cut)) - bound
        if over <= 0 or size < 64:
            return cut
        size = int(size * 0.9)  # quotes and line ends take two bytes in JSON
