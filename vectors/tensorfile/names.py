"""Tensor names: matching two naming habits, and which layer a tensor belongs to.

Names are matched exactly, or through one prefix (``model.`` ↔ ``language_model.model.``) that is
found from the names themselves, so no architecture is special.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Tensors whose first axis is the vocabulary: the only place where a differing shape has a meaning.
VOCABULARY = re.compile(r"embed|wte|lm_head|word_emb|vocab|^shared\.|predictions\.(bias|decoder)")
_INDEX = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def match_names(source: Iterable[str], wanted: Iterable[str]) -> tuple[dict[str, str], str]:
    """Map names of ``source`` to names of ``wanted``; also say which prefix was used.

    The prefix reads ``+model.`` (added), ``-bert.`` (removed) or is empty. Names that match
    nothing are left out of the map.
    """
    names, targets = list(source), set(wanted)
    best = ({name: name for name in names if name in targets}, "")
    if len(best[0]) * 2 >= len(names):
        return best
    for prefix in _candidate_prefixes(names, targets):
        if prefix.startswith("+"):
            found = {n: prefix[1:] + n for n in names if prefix[1:] + n in targets}
        else:
            bare = {n: n.removeprefix(prefix[1:]) for n in names}
            # Where `bert.a` and `a` both exist, `a` is itself and `bert.a` stays unmatched.
            found = {n: b for n, b in bare.items() if b in targets and (n == b or b not in bare)}
        if len(found) > len(best[0]):
            best = (found, prefix)
    return best


def _candidate_prefixes(names: Sequence[str], targets: set[str]) -> list[str]:
    candidates: Counter[str] = Counter()
    ordered = sorted(targets)
    for name in names[:64]:
        for target in ordered:
            if target.endswith("." + name):
                candidates["+" + target[: -len(name)]] += 1
            elif name.endswith("." + target):
                candidates["-" + name[: -len(target)]] += 1
    # A short name such as `weight` is the end of everything; what many names speak for is tried.
    return [prefix for prefix, _votes in candidates.most_common(16)]


def layer_of(name: str) -> tuple[int, str]:
    """Sort key and label of the layer a tensor belongs to: its first number, else its first word.

    Tensors without a number that come before the layers (embeddings) sort first, others last.
    """
    found = _INDEX.search(name)
    if found:
        return int(found[1]), f"{found[1]}"
    first = next((part for part in name.split(".") if part not in ("model", "base_model")), name)
    return (-1 if VOCABULARY.search(name) else 10**6), first


def has_layer_index(name: str) -> bool:
    """Whether the tensor sits in a numbered layer (so that every sibling model must have it)."""
    return bool(_INDEX.search(name))


def shape_text(shape: Sequence[int]) -> str:
    """``384 × 1536``, or ``a scalar``."""
    return " × ".join(map(str, shape)) or "a scalar"
