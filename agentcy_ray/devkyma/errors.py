"""What a request is refused with: an HTTP status and kyma's error code."""

from __future__ import annotations


class EngineError(Exception):
    """A refusal. ``headers`` go into the response as they are."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def bad_body(message: str) -> EngineError:
    """An ingest body that does not fit; nothing of it was stored."""
    return EngineError(400, "bad_request_body", message)
