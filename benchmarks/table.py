"""Medians, ratios and targets as Markdown that reads well in a terminal, too."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .processes import Run
from .recipes import Operation, Targets
from .rounds import CP, FLOOR, OURS, PEER, Results

ABSENT = "–"
MEMORY_MARGIN = 1.1  # peaks of two sizes that differ by less are called the same


@dataclass(frozen=True)
class Medians:
    """Of the runs of one program in one operation."""

    count: int
    wall: float
    fastest: float
    slowest: float
    cpu: float
    peak: float


def medians(runs: Sequence[Run]) -> Medians | None:
    """Medians of ``runs``; None if there are none."""
    if not runs:
        return None
    walls = [run.wall for run in runs]
    return Medians(
        count=len(runs),
        wall=statistics.median(walls),
        fastest=min(walls),
        slowest=max(walls),
        cpu=statistics.median(run.cpu for run in runs),
        peak=statistics.median(run.peak for run in runs),
    )


def ratios(results: Results) -> str:
    """A line an operation: ours, the peer, their ratios, and the targets."""
    head = (
        "operation",
        "ours s",
        "mergekit s",
        "faster",
        "ours CPU s",
        "mergekit CPU s",
        "less CPU",
        "ours MB",
        "mergekit MB",
        "less memory",
        "× cp",
        "× floor",
        "targets",
    )
    lines = [_ratio_line(results, operation) for operation in results.operations]
    return _markdown(head, lines)


def measured(results: Results) -> str:
    """A line a program and operation: the medians themselves and how far the runs lie apart."""
    copy = medians(results.runs.get(("", CP), []))
    assert copy is not None
    head = ("operation", "program", "runs", "wall s", "from – to", "CPU s", "peak MB", "× cp")
    lines = [_measured_line("copy of a model", CP, copy, copy)]
    for operation in results.operations:
        for program in (FLOOR, OURS, PEER):
            found = medians(results.runs.get((operation.name, program), []))
            if found:
                lines.append(_measured_line(operation.title, program, found, copy))
    return _markdown(head, lines)


def notes(results: Results) -> list[str]:
    """What could not be measured, and why."""
    titles = {operation.name: operation.title for operation in results.operations}
    return [
        f"{titles[name]}, {program}: {reason}"
        for (name, program), reason in results.missing.items()
    ]


def memory_growth(all_results: Sequence[Results], name: str = "task_arithmetic") -> str | None:
    """Whether the peak memory of ours stays the same from size to size."""
    peaks = {}
    for results in all_results:
        found = medians(results.runs.get((name, OURS), []))
        if found:
            peaks[results.size.name] = found.peak
    if len(peaks) < 2:
        return None
    held = max(peaks.values()) <= MEMORY_MARGIN * min(peaks.values())
    listed = ", ".join(f"{peak / 1e6:.0f} MB at {size} B" for size, peak in peaks.items())
    return f"Peak memory of ours, {name}: {listed}. Target: the same. {_mark(held)}"


def _ratio_line(results: Results, operation: Operation) -> list[str]:
    copy = medians(results.runs.get(("", CP), []))
    floor, ours, peer = (
        medians(results.runs.get((operation.name, program), [])) for program in (FLOOR, OURS, PEER)
    )
    if ours is None:
        return [operation.title, "not available", *[ABSENT] * 11]
    assert copy is not None
    assert floor is not None
    return [
        operation.title,
        f"{ours.wall:.2f}",
        f"{peer.wall:.2f}" if peer else ABSENT,
        _times(peer.wall / ours.wall if peer else None),
        f"{ours.cpu:.2f}",
        f"{peer.cpu:.2f}" if peer else ABSENT,
        _times(peer.cpu / ours.cpu if peer else None),
        f"{ours.peak / 1e6:.0f}",
        f"{peer.peak / 1e6:.0f}" if peer else ABSENT,
        _times(peer.peak / ours.peak if peer else None),
        f"{ours.wall / copy.wall:.1f}",
        f"{ours.wall / floor.wall:.1f}",
        _judged(operation.targets.get(results.size.name, Targets()), ours, peer, copy),
    ]


def _judged(targets: Targets, ours: Medians, peer: Medians | None, copy: Medians) -> str:
    parts = []
    if targets.faster is not None:
        met = None if peer is None else peer.wall / ours.wall >= targets.faster
        parts.append(f"≥ {targets.faster:g}× faster {_mark(met)}")
    if targets.cp is not None:
        parts.append(f"≤ {targets.cp:g} cp {_mark(ours.wall / copy.wall <= targets.cp)}")
    if targets.memory is not None:
        met = None if peer is None else peer.peak / ours.peak >= targets.memory
        parts.append(f"≤ 1/{targets.memory:g} memory {_mark(met)}")
    return "; ".join(parts)


def _mark(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[met]


def _times(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.1f}×"


def _measured_line(title: str, program: str, found: Medians, copy: Medians) -> list[str]:
    return [
        title,
        program,
        str(found.count),
        f"{found.wall:.2f}",
        f"{found.fastest:.2f} – {found.slowest:.2f}",
        f"{found.cpu:.2f}",
        f"{found.peak / 1e6:.0f}",
        f"{found.wall / copy.wall:.1f}",
    ]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their content; the first two to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    left = [not any(line[i][:1].isdigit() for line in lines) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(cells, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if is_left else "-" * (width - 1) + ":"
        for width, is_left in zip(widths, left, strict=True)
    ]
    return "\n".join([row(head), f"| {' | '.join(rule)} |", *map(row, lines)])
