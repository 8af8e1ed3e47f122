"""How far a sync is, told as one line: the stage at work, its rate and what is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from agentcy_ray.jobs.records import Progress


class Beats(Protocol):
    """What a sync needs of the job that carries it."""

    epoch: int
    cancelled: bool
    last_attempt: bool

    def progress(self, progress: Progress) -> None:
        """Say how far the work is."""
        ...

    def check(self) -> None:
        """Raise when a cancel was asked for."""
        ...


@dataclass
class Track:
    """One countable piece of work."""

    name: str
    unit: str
    total: int | None
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Time it has taken so far."""
        return (self.ended or time.monotonic()) - self.started

    def shown(self, note: str) -> Progress:
        """As progress, with the rate so far and the time that the rest will take."""
        rate = self.done / self.seconds if self.seconds > 0 and self.done else None
        left = None if self.total is None else max(0, self.total - self.done)
        return Progress(
            done=self.done,
            total=self.total,
            unit=self.unit,
            rate=None if rate is None else round(rate, 1),
            eta_secs=None if not rate or left is None else round(left / rate, 1),
            note=note,
        )


class Meter:
    """Collects the tracks of a sync and tells the first that is not through."""

    def __init__(self, beat: Beats) -> None:
        self._beat = beat
        self._tracks: list[Track] = []

    def start(self, name: str, unit: str, total: int | None = None) -> Track:
        """Begin a piece of work."""
        track = Track(name, unit, total)
        self._tracks.append(track)
        self._tell()
        return track

    def add(self, track: Track, done: int) -> None:
        """Count work of a track."""
        track.done += done
        self._tell()

    def at(self, track: Track, done: int, total: int | None, unit: str) -> None:
        """Set a track to what a source says of itself."""
        track.done, track.total, track.unit = done, total, unit
        self._tell()

    def end(self, track: Track) -> None:
        """A piece of work is through."""
        track.ended = time.monotonic()
        self._tell()

    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        spent: dict[str, float] = {}
        for track in self._tracks:
            spent[track.name] = round(spent.get(track.name, 0.0) + track.seconds, 3)
        return spent

    def _tell(self) -> None:
        open_tracks = [track for track in self._tracks if track.ended is None]
        if not open_tracks:
            return
        first, *others = open_tracks
        note = first.name
        for other in others:
            of = "" if other.total is None else f" of {other.total}"
            note += f"; {other.name}: {other.done}{of} {other.unit}"
        self._beat.progress(first.shown(note))
