"""One scenario's timeline as lines, ticks and shades; pure.

Two panels over one axis of time: what was logged and delivered, which only grows, and under it what waits,
on a scale of its own. Where there was no sample a line has a hole: a program that is dead shows as one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos.page._rows import Timeline

WIDTH, HEIGHT = 640, 316
LEFT, RIGHT = 62, 628
_GROWING = (30, 168)  # top and bottom of the upper panel
_WAITING = (204, 282)

_MOST_SAMPLES = 240  # more than the picture has room for

_UNITS = ((7200.0, 3600, "h"), (180.0, 60, "min"), (0.0, 1, "s"))  # of the axis, by how long it is


@dataclass(frozen=True, slots=True)
class Sample:
    """What was where at one time, or during a stretch of it that ended then."""

    seconds: float
    logged: int | None
    delivered: int | None
    spooled: int | None
    in_memory: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """One series; `name` is its class in page.css."""

    name: str
    title: str
    path: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share a scale."""

    title: str
    top: int
    bottom: int
    ticks: tuple[tuple[float, str], ...]  # (y, what stands there)
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """All that timeline.svg draws."""

    description: str
    panels: tuple[Panel, ...]
    ticks: tuple[tuple[float, str], ...]  # (x, what stands there)
    faults: tuple[tuple[float, float], ...]  # (x, width)
    samples: str  # JSON: [[x, "time", logged, delivered, spooled, in memory], ...], for the script


def draw(timeline: Timeline) -> Picture | None:
    """Make a picture; None where no sample was taken."""
    samples = _thinned(
        [
            Sample(*values)
            for values in zip(
                timeline.seconds,
                timeline.logged,
                timeline.delivered,
                timeline.spooled,
                timeline.in_memory,
                strict=True,
            )
        ]
    )
    if not samples:
        return None
    begin = min(0.0, samples[0].seconds)
    end = max(samples[-1].seconds, begin + 0.001)
    size, unit = next((size, unit) for least, size, unit in _UNITS if end - begin >= least)

    def x(seconds: float) -> float:
        return _between(LEFT, RIGHT, (min(max(seconds, begin), end) - begin) / (end - begin))

    faults = [(start, end if stop is None else stop) for start, stop in timeline.faults]
    return Picture(
        description=_describe(timeline, faults),
        panels=(
            _panel("records in all", _GROWING, samples, x, ("delivered", "logged")),
            _panel("records waiting", _WAITING, samples, x, ("spooled", "in_memory")),
        ),
        ticks=tuple(
            (x(tick * size), f"{tick:g} {unit}") for tick in _round_steps(end / size, 6) if tick * size <= end
        ),
        # A fault of a moment is still to be seen.
        faults=tuple((x(start), max(round(x(stop) - x(start), 1), 1.5)) for start, stop in faults),
        samples=json.dumps(
            [
                [x(s.seconds), f"{s.seconds:.2f} s", s.logged, s.delivered, s.spooled, s.in_memory]
                for s in samples
            ],
            separators=(",", ":"),
        ),
    )


def _thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    """At most so many samples as fit; none of the peaks is lost."""
    together = math.ceil(len(samples) / _MOST_SAMPLES)
    if together <= 1:
        return samples
    thin = []
    for start in range(0, len(samples), together):
        some = samples[start : start + together]
        thin.append(
            Sample(
                some[-1].seconds,
                _peak([s.logged for s in some]),
                _peak([s.delivered for s in some]),
                _peak([s.spooled for s in some]),
                _peak([s.in_memory for s in some]),
            )
        )
    return thin


def _peak(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _panel(
    title: str,
    place: tuple[int, int],
    samples: Sequence[Sample],
    x: Callable[[float], float],
    names: Sequence[str],
) -> Panel:
    top, bottom = place
    series = {name: [getattr(sample, name) for sample in samples] for name in names}
    ticks = _round_steps(
        max(_peak(values) or 0 for values in series.values()), 4 if bottom - top > 100 else 2
    )

    def y(value: float) -> float:
        return _between(bottom, top, value / ticks[-1])

    return Panel(
        title,
        top,
        bottom,
        tuple((y(tick), _short(tick)) for tick in ticks if tick == int(tick)),
        tuple(
            Line(
                name,
                name.replace("_", " "),
                _path(
                    [
                        None if value is None else (x(sample.seconds), y(value))
                        for sample, value in zip(samples, values, strict=True)
                    ]
                ),
            )
            for name, values in series.items()
        ),
    )


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Lines from point to point, with holes; a point between two holes is a dot."""
    drawn: list[str] = []
    before: tuple[float, float] | None = None
    for index, point in enumerate(points):
        if point is not None:
            drawn.append(f"{'M' if before is None else 'L'}{point[0]:g} {point[1]:g}")
            if before is None and (index + 1 == len(points) or points[index + 1] is None):
                drawn.append("h0")
        before = point
    return "".join(drawn)


def _round_steps(most: float, about: int) -> list[float]:
    """Steps of 1, 2 or 5 times a power of ten, from 0 to the first that is not below `most`."""
    most = max(most, 1e-3) if most else 1.0
    rough = most / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    return [round(step * index, 9) for index in range(math.ceil(round(most / step, 6)) + 1)]


def _short(value: float) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value:,.0f}"


def _between(start: float, stop: float, part: float) -> float:
    return round(start + (stop - start) * part, 1)


def _describe(timeline: Timeline, faults: Sequence[tuple[float, float]]) -> str:
    """Say the picture, for those who do not see it."""
    said = [
        f"{_peak(timeline.logged) or 0:,} records logged",
        f"{_peak(timeline.delivered) or 0:,} delivered",
        f"at most {_peak(timeline.spooled) or 0:,} spooled and {_peak(timeline.in_memory) or 0:,} in memory",
    ]
    spans = [f"{start:.1f} s to {stop:.1f} s" for start, stop in faults[:3]]
    if len(faults) > len(spans):
        spans.append(f"{len(faults) - len(spans)} more")
    return f"{', '.join(said)}; fault: {', '.join(spans) or 'not drawn'}."
