"""Secrets of a source, kept out of whatever its connector says."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from traceback import format_exception
from typing import Any, TypeVar, cast
from urllib.parse import quote

import orjson
from pydantic import BaseModel

from agentcy_ray.connectors.secrets import secret_values
from agentcy_ray.core.errors import AgentcyError, ConnectorError

REDACTED = "[redacted]"
_SHORTEST = 4
"""A shorter secret would redact ordinary words; it protects nothing anyway."""

ErrorT = TypeVar("ErrorT", bound=AgentcyError)


class Redactor:
    """Replaces the secrets of one config, wherever they appear in text or JSON."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = tuple(secret for secret in secrets if len(secret) >= _SHORTEST)
        self._encoded = tuple(orjson.dumps(secret)[1:-1] for secret in self._secrets)
        self._spellings = tuple(
            dict.fromkeys(each for secret in self._secrets for each in _spellings(secret))
        )

    def text(self, text: str) -> str:
        """``text`` with every secret replaced."""
        for spelling in self._spellings:
            text = text.replace(spelling, REDACTED)
        return text

    def json(self, encoded: bytes) -> Any:
        """The value of JSON text, with every secret in it replaced."""
        value = orjson.loads(encoded)
        return self._walk(value) if self._leaks(encoded) else value

    def text_of_json(self, encoded: bytes) -> bytes:
        """JSON text with every secret in it replaced; most has none and stays as it is."""
        if not self._leaks(encoded):
            return encoded
        return orjson.dumps(self._walk(orjson.loads(encoded)))

    def error(self, error: ErrorT) -> ErrorT:
        """``error`` itself when it is clean, else a copy without secrets and without its cause."""
        message = self.text(error.message)
        details = self.json(orjson.dumps(error.details, str))
        if message == error.message and details == error.details:
            return error
        return type(error)(message, code=error.code, **details)

    def _leaks(self, encoded: bytes) -> bool:
        return any(secret in encoded for secret in self._encoded)

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(item) for item in cast("list[Any]", value)]
        if isinstance(value, Mapping):
            pairs = cast("Mapping[str, Any]", value).items()
            return {self.text(key): self._walk(item) for key, item in pairs}
        if isinstance(value, bool) or value is None:
            return value
        shown = str(value)
        return value if self.text(shown) == shown else REDACTED


def _spellings(secret: str) -> tuple[str, ...]:
    """A secret as it stands in text, in JSON, in a ``repr``, and in a URL."""
    return secret, orjson.dumps(secret)[1:-1].decode(), repr(secret)[1:-1], quote(secret, safe="")


@contextmanager
def without_secrets(config: BaseModel) -> Generator[None]:
    """Keeps the secrets of a config out of every error that leaves the block.

    An error that tells none passes as it is. One of a kind that we do not know becomes ours, since
    nothing else is sure to be without them: its arguments, its cause, the frames of its traceback.

    Raises:
        ConnectorError: in place of an error that is not ours and told a secret.
    """
    redactor = Redactor(secret_values(config))
    try:
        yield
    except AgentcyError as error:
        clean = redactor.error(error)
        if clean is error and not _tells(redactor, error):
            raise
        raise clean from None
    except Exception as error:
        if not _tells(redactor, error):
            raise
        said = redactor.text(f"{type(error).__name__}: {error}")
        raise ConnectorError(f"the connector failed: {said}") from None


def _tells(redactor: Redactor, error: BaseException) -> bool:
    """Whether a traceback of the error would hold a secret, its causes included."""
    text = "".join(format_exception(error))
    return redactor.text(text) != text
