"""Versions with the very same weights: what was found out about one holds for the other.

A push that only changes the card must not have gigabytes inspected again.
"""

from __future__ import annotations

from collections.abc import Mapping

from vectors.commits import tree_of
from vectors.files import WEIGHTS
from vectors.models import Foundation, Sketch, Vector, Version

LOOKED_AT = 20  # versions of a vector, newest first


def weights_of(tree: Mapping[str, str]) -> dict[str, str]:
    """The files of a tree that make a vector what it is: those with tensors, and a LoRA's scale."""
    return {
        path: sha256
        for path, sha256 in tree.items()
        if path.endswith(WEIGHTS) or path == "adapter_config.json"
    }


def twin_among(
    vector: Vector, tree: Mapping[str, str], foundation: Foundation | None
) -> Version | None:
    """A version of ``vector`` that was inspected against ``foundation`` with these weights."""
    weights = weights_of(tree)
    if not weights:
        return None
    inspected = vector.versions.filter(foundation=foundation, number__isnull=False)
    for version in inspected.order_by("-number")[:LOOKED_AT]:
        if weights_of(tree_of(version)) == weights:
            return version
    return None


def inspected_twin(version: Version) -> Version | None:
    """The version whose verdict holds for a pushed draft as well, if there is one."""
    if not version.is_pushed or version.vector is None:
        return None
    return twin_among(version.vector, tree_of(version), version.foundation)


def copy_sketch(source: Version, goal: Version) -> None:
    """Give ``goal`` the sketch of its twin."""
    sketch = Sketch.objects.filter(version=source).first()
    if sketch is not None:
        sketch.pk, sketch.version = None, goal
        sketch.save(force_insert=True)
