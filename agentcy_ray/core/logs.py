"""How a process logs: one object per line, no secret that shows by its shape, no local variables.

Left to itself the library prints the local variables of every frame of a traceback, and with them
whatever secret was being worked with.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.settings import Settings

_shapes = Redactor()


def set_up_logs(settings: Settings) -> None:
    """Make this process log as ``LOG_LEVEL`` and ``LOG_FORMAT`` say; may be called again."""
    form: Any = (
        structlog.processors.JSONRenderer(serializer=_json)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            form,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
    )


def _redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _shapes.text(value)
    return event


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
