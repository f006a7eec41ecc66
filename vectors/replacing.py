"""A push that brings other weights than there were: the old ones do not stay beside them.

A client sends what it has and deletes nothing. Where ``model.safetensors`` was and shards come,
both would be there, and loaders prefer the single file: the stale one. A version has one set of
weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import closing

from vectors.files import called
from vectors.storage.current import storage
from vectors.tensorfile.completeness import named_by
from vectors.tensorfile.forms import LORA, STEMS

ADAPTER = "adapter_config.json"


def replaced(before: Mapping[str, str], tree: Mapping[str, str], put: Collection[str]) -> list[str]:
    """The files of ``tree`` that are left over of other weights than those a push brings.

    ``put`` are the paths that it named: of those none leaves, so that a push of two sets is refused
    as one. Nothing leaves where no whole set of weights is new.
    """
    new = {path for path in tree if path in put or before.get(path) != tree[path]}
    sets = [found for stem in STEMS.values() for found in _sets(stem, tree)]
    fresh = [members for members in sets if members & new and members <= tree.keys()]
    kept = new.union(*fresh)
    return sorted(path for path in tree if fresh and _is_weights(path) and path not in kept)


def _sets(stem: str, tree: Mapping[str, str]) -> list[set[str]]:
    """The files of each set of weights of that name: the single file, and the index with all that
    it names. An adapter's configuration belongs to its weights."""
    beside = {ADAPTER} & tree.keys() if stem == STEMS[LORA] else set()
    found = []
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if single in tree:
        found.append({single, *beside})
    if index in tree:
        with closing(called(index, storage().open(tree[index]))) as source:
            found.append({index, *named_by(source), *beside})
    return found


_STEMS = "|".join(STEMS.values())
_WEIGHTS = re.compile(
    rf"({_STEMS})(-\d+-of-\d+)?\.safetensors|({_STEMS})\.safetensors\.index\.json"
)


def _is_weights(path: str) -> bool:
    return path == ADAPTER or _WEIGHTS.fullmatch(path) is not None
