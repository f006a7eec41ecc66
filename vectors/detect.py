"""Which foundation an upload was trained from: what its card says, else what its tensors say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vectors.access import may_read
from vectors.cards import storable
from vectors.models import Form, Foundation, Vector
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.measure import relative_distance
from vectors.tensorfile.names import match_names

PROBE_TENSORS = 4
PROBE_ELEMENTS = 4 * 2**20
MAX_NAMED = 400  # characters; training leaves local paths
MAX_BASES = 20  # of one card that are looked for


@dataclass(frozen=True)
class Guess:
    """A foundation and why it was chosen: ``named`` (by the card), ``fits`` or ``closest``.

    ``named_elsewhere`` is the base the card names when it is not in this catalogue.
    """

    foundation: Foundation | None
    reason: str
    named_elsewhere: str = ""


def named_bases(card: Mapping[str, Any], adapter_config: Mapping[str, Any]) -> list[str]:
    """The bases that card and adapter name, in order of trust."""
    named = card.get("base_model")
    names = named[:MAX_BASES] if isinstance(named, list) else [named]
    names.append(adapter_config.get("base_model_name_or_path"))
    texts = (storable(name).strip()[:MAX_NAMED] for name in names if isinstance(name, str))
    return [text for text in texts if text]


def guess_foundation(
    content: Checkpoint | Adapter,
    form: str,
    named: list[str],
    foundations: Mapping[int, Checkpoint] | None = None,
    find: Callable[[str], Foundation | None] | None = None,
) -> Guess:
    """Find the foundation of an upload. ``foundations`` gives opened weights by primary key for
    the closest-of-several question (full checkpoints only); without them the best fit counts.
    ``find`` says which foundation a name means."""
    for name in named:
        found = (find or by_name)(name)
        if found:
            return Guess(found, "named")
    fits = best_fits(content)
    if not fits:
        return Guess(None, "none", named[0] if named else "")
    best = [found for found, share in fits if share >= fits[0][1] - 1e-9]
    elsewhere = named[0] if named else ""
    if len(best) == 1 or form != "full" or not foundations or not isinstance(content, Checkpoint):
        return Guess(best[0], "fits", elsewhere)
    distances = {
        found.pk: probe_distance(content, foundations[found.pk])
        for found in best
        if found.pk in foundations
    }
    closest = min(best, key=lambda found: distances.get(found.pk, math.inf))
    return Guess(closest, "closest", elsewhere)


def by_name(name: str) -> Foundation | None:
    """A foundation by its id; a bare name (or a path that ends in it) counts when it is unique."""
    found = Foundation.objects.by_repo_id(name).first()
    if found:
        return found
    short = name.rstrip("/").rsplit("/", 1)[-1]
    matches = list(Foundation.objects.filter(name__iexact=short)[:2])
    return matches[0] if len(matches) == 1 else None


def base_of(name: str, user: Any) -> Foundation | None:
    """The foundation that ``name`` means as a base model: its own, or that of a whole fine-tune
    which ``user`` may read."""
    found = by_name(name)
    if found:
        return found
    vectors = Vector.objects.called(name).filter(current__form=Form.FULL)
    vector = vectors.select_related("current", "foundation").first()
    if vector is None or vector.current is None:
        return None
    vector.current.vector = vector
    return vector.foundation if may_read(user, vector.current) else None


def best_fits(content: Checkpoint | Adapter) -> list[tuple[Foundation, float]]:
    """Foundations by the share of the upload's tensors they hold in the same shape, best first.

    Only those with at least half; all of them are read from their manifests.
    """
    shapes: dict[str, tuple[int, ...]] = (
        {name: pair.shape for name, pair in content.low_rank.items()}
        if isinstance(content, Adapter)
        else {name: tensor.shape for name, tensor in content.tensors.items()}
    )
    if not shapes:
        return []
    scored = []
    for foundation in Foundation.objects.order_by("pk"):
        mapping, _prefix = match_names(shapes, foundation.manifest)
        equal = sum(
            tuple(foundation.manifest[goal][1]) == shapes[name] for name, goal in mapping.items()
        )
        if equal * 2 >= len(shapes):
            scored.append((foundation, equal / len(shapes)))
    return sorted(scored, key=lambda pair: -pair[1])


def probe_distance(content: Checkpoint, foundation: Checkpoint) -> float:
    """‖x − θ‖/‖θ‖ over a few tensors: enough to tell a parent from a stranger."""
    mapping, _prefix = match_names(content.tensors, foundation.tensors)
    pairs = [
        (content.tensors[name], foundation.tensors[goal])
        for name, goal in mapping.items()
        if content.tensors[name].shape == foundation.tensors[goal].shape
        and len(content.tensors[name].shape) == 2
        and content.tensors[name].count <= PROBE_ELEMENTS
        and content.tensors[name].dtype.startswith(("F", "BF"))
    ]
    pairs.sort(key=lambda pair: pair[0].name)
    step = max(1, len(pairs) // PROBE_TENSORS)
    distances = [relative_distance(tensor, base) for tensor, base in pairs[::step][:PROBE_TENSORS]]
    return sum(distances) / len(distances) if distances else math.inf
