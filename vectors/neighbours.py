"""One vector held against all others of its foundation: what contradicts it, what is like it.

The coarse rows of all of them are compared at once, and the whole sketches of the few that may
matter decide. What *fits* is what no conflict was found with, the most equipped first: the sketch
says nothing about which of those works best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.utils.translation import gettext

from vectors.models import Foundation, Sketch, Vector, Version
from vectors.rowfile import RowFile
from vectors.sketches import read_sketch, read_sketches
from vectors.tensorfile import sketch_format
from vectors.tensorfile.coarse import SCALE_BYTES, cosines
from vectors.tensorfile.likeness import (
    CONTRADICTION_COSINE,
    NAMES,
    RELATED_COSINE,
    Likeness,
    Verdict,
    compare,
)

# Three standard errors of a row's cosine, where vectors change half of the model or more.
MARGIN = 0.03
SPARE = 2  # candidates for each place, since their sketches may say something else
_AT_ONCE = 500

# A sketch's number and norm: the norm tells it from one that had its number in another database.
Key = tuple[int, float]


@dataclass(frozen=True)
class Neighbour:
    """Another vector of the foundation, and how the two lie to each other."""

    vector: Vector
    likeness: Likeness

    @property
    def verdict(self) -> str:
        """What the pair is called, in the reader's language."""
        return gettext(NAMES[self.likeness.verdict])

    @property
    def text(self) -> str:
        """What is said of the pair, in the reader's language."""
        template, params = self.likeness.sentence
        return gettext(template) % params


@dataclass(frozen=True)
class Neighbours:
    """The others that matter. ``compared`` of them have a sketch, ``unknown`` have none yet."""

    fitting: list[Neighbour]
    alike: list[Neighbour]
    contradicting: list[Neighbour]
    compared: int
    unknown: int


def neighbours(version: Version, *, user: Any, limit: int = 6) -> Neighbours | None:
    """The neighbours of ``version`` among what ``user`` may see; None while it has no sketch.

    The number of queries does not depend on how many there are.
    """
    assert version.foundation is not None
    own = Sketch.objects.filter(version=version, format=sketch_format.VERSION).first()
    if own is None:
        return None
    others = list(
        Vector.objects.visible_to(user)
        .filter(foundation=version.foundation, current__state=Version.State.PUBLISHED)
        .exclude(pk=version.vector_id or 0)  # a draft has no vector yet
        .order_by("-equips", "-likes", "-pk")
        .values_list("pk", "current__sketch", "current__sketch__norm", "current__sketch__format")
    )
    sketched = [each for each in others if each[3] == sketch_format.VERSION]
    blobs = _blobs_of(version.foundation, [each[1:3] for each in sketched])
    known = [(each[0], blob) for each, blob in zip(sketched, blobs, strict=True) if blob]
    found = _ranked(own, version.foundation, known, limit)
    return Neighbours(
        fitting=found[Verdict.INDEPENDENT],
        alike=found[Verdict.RELATED],
        contradicting=found[Verdict.CONTRADICTION],
        compared=len(known),
        unknown=len(others) - len(known),
    )


def _ranked(
    own: Sketch, foundation: Foundation, known: Sequence[tuple[int, str]], limit: int
) -> dict[Verdict, list[Neighbour]]:
    """By kind, at most ``limit`` each; duplicates are filed with what is related."""
    width = len(own.row) - SCALE_BYTES
    file = _row_file(Path(settings.ARMORY_DATA), foundation.fingerprint, width)
    rows = file.rows([blob for _pk, blob in known], partial(_load, foundation))
    there = np.flatnonzero(rows.which >= 0)  # all of them, but for one deleted this moment
    estimates = cosines(bytes(own.row), rows.rows, rows.scales, rows.which[there])
    chosen = [known[there[i]] for i in _candidates(estimates, SPARE * limit)]
    mine = read_sketch(own.blob_id)
    sketches = read_sketches(blob for _pk, blob in chosen)
    found = [(pk, compare(mine, sketches[blob])) for pk, blob in chosen if blob in sketches]
    alike = (Verdict.DUPLICATE, Verdict.RELATED)
    fitting = [each for each in found if each[1].verdict == Verdict.INDEPENDENT]
    related = [each for each in found if each[1].verdict in alike]
    against = [each for each in found if each[1].verdict == Verdict.CONTRADICTION]
    shown = {
        Verdict.INDEPENDENT: fitting[:limit],
        Verdict.RELATED: sorted(related, key=lambda each: -each[1].cosine)[:limit],
        Verdict.CONTRADICTION: sorted(against, key=lambda each: each[1].cosine)[:limit],
    }
    wanted = [pk for rows in shown.values() for pk, _likeness in rows]
    vectors = Vector.objects.for_cards().in_bulk(wanted)
    return {
        verdict: [Neighbour(vectors[pk], likeness) for pk, likeness in rows if pk in vectors]
        for verdict, rows in shown.items()
    }


def _candidates(estimates: np.ndarray, many: int) -> list[int]:
    """The first of those without conflict, the most alike and the most contrary, in their order."""
    quiet = np.flatnonzero(
        (estimates > CONTRADICTION_COSINE + MARGIN) & (estimates < RELATED_COSINE + MARGIN)
    )
    ordered = np.argsort(estimates, kind="stable")
    return sorted({int(i) for i in (*quiet[:many], *ordered[:many], *ordered[::-1][:many])})


def _blobs_of(foundation: Foundation, wanted: Sequence[Key]) -> list[str | None]:
    """The blob of each sketch, by one query for those this process has not met.

    In the table a sketch's blob stands behind its row of 16 KB, and SQLite reads all of that to
    come to it. A sketch is of a version that never changes, so what was read once stays true.
    """
    known = _met(Path(settings.ARMORY_DATA), foundation.fingerprint)
    found = [known.get(key) for key in wanted]
    if None in found:
        missing = [key[0] for key, blob in zip(wanted, found, strict=True) if blob is None]
        sketches = Sketch.objects.filter(version__foundation=foundation)
        if len(missing) <= _AT_ONCE:
            sketches = sketches.filter(pk__in=missing)
        for pk, norm, blob in sketches.values_list("pk", "norm", "blob_id"):
            known[pk, norm] = blob
        found = [known.get(key) for key in wanted]
    return found


@lru_cache(maxsize=64)
def _met(data: Path, fingerprint: str) -> dict[Key, str]:
    return {}


def _load(foundation: Foundation, blobs: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Rows from the database, of the sketches with these blobs, by one query."""
    sketches = Sketch.objects.filter(version__foundation=foundation, format=sketch_format.VERSION)
    if len(blobs) <= _AT_ONCE:
        sketches = sketches.filter(blob__in=blobs)
    wanted = set(blobs)
    for blob, row in sketches.values_list("blob_id", "row").iterator(_AT_ONCE):
        if blob in wanted:
            wanted.remove(blob)
            yield blob, bytes(row)


@lru_cache(maxsize=64)
def _row_file(data: Path, fingerprint: str, width: int) -> RowFile:
    return RowFile(data / "sketches" / f"{fingerprint}-{sketch_format.VERSION}", width)
