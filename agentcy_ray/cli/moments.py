"""Points in time on the command line: ``2h`` ago, a day, or RFC 3339."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> str:
    """RFC 3339 of ``90m`` (so long ago), ``2026-04-24`` (its midnight here) or a full time.

    Raises:
        BadParameter: it is none of them.
    """
    if ago := _AGO.fullmatch(text):
        past = datetime.now().astimezone() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return past.isoformat()
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; say 2h, 7d, 2026-04-24 or 2026-04-24T12:00:00Z"
        ) from None
    return (parsed if parsed.tzinfo else parsed.astimezone()).isoformat()


Moment = Annotated[
    str | None,
    typer.Option(parser=moment, metavar="TIME", help="2h, 7d, 2026-04-24 or RFC 3339."),
]
