"""The form of a figure, and how one is measured against its control."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Figure:
    """One published number beside its control, measured in the same run."""

    figure: str
    value: float
    unit: str
    control: str | None
    control_value: float | None
    ratio: float | None
    goal: str
    met: bool
    n: int
    spread: tuple[float, float]
    machine: str

    def row(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


async def alternate(
    subject: Measure, control: Measure, rounds: int = 5
) -> tuple[list[float], list[float]]:
    """Measure both in turns (A B A B …), so that a change of the machine's load meets both."""
    subjects: list[float] = []
    controls: list[float] = []
    for _ in range(rounds):
        controls.append(await control())
        subjects.append(await subject())
    return subjects, controls


def compared(
    figure: str,
    unit: str,
    control: str,
    values: Sequence[float],
    control_values: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """A figure with the ratio of medians, subject over control, held against its goal."""
    value, reference = statistics.median(values), statistics.median(control_values)
    ratio = value / reference
    met = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    goal = "none"
    if at_least is not None or at_most is not None:
        goal = f"ratio ≥ {at_least}" if at_least is not None else f"ratio ≤ {at_most}"
    return Figure(
        figure, round(value, 4), unit, control, round(reference, 4), round(ratio, 3), goal, met,
        len(values), (round(min(values), 4), round(max(values), 4)), machine(),
    )  # fmt: skip


def absolute(
    figure: str, unit: str, values: Sequence[float], *, at_most: float | None = None
) -> Figure:
    """A figure without a control, held against a bound when there is one."""
    value = statistics.median(values)
    met = at_most is None or value <= at_most
    goal = "none" if at_most is None else f"≤ {at_most}"
    spread = (round(min(values), 4), round(max(values), 4))
    return Figure(
        figure, round(value, 4), unit, None, None, None, goal, met, len(values), spread, machine()
    )


def machine() -> str:
    """The machine in words: cores, memory, processor, system."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    gib = pages * size / 2**30
    return f"{os.cpu_count()} cores, {gib:.0f} GiB, {platform.machine()}, {platform.system()}"
