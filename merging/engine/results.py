"""Kept results of whole-tensor methods: each update is computed once, and its bytes are the file.

A decomposition is not a sum: another processor or library may round it another way. So the first
result of a recipe is written down, under the recipe's identity, and served from then on.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np


class FolderResults:
    """Updates of one recipe in a folder, one file a tensor; complete files only, by rename.

    ``limit`` bounds the bytes of all recipes' results in ``folder``: see `trim_results`.
    """

    def __init__(self, folder: Path, identity: str, limit: int | None = None) -> None:
        self._root, self._limit = folder, limit
        self._folder = folder / identity[:2] / identity

    def get(self, name: str) -> np.ndarray | None:
        """The update of the tensor ``name`` (1-D), or None."""
        try:
            found: np.ndarray = np.load(self._path(name), allow_pickle=False)
            os.utime(self._path(name))  # what is used stays longest
        except (OSError, ValueError):
            return None
        return found

    def put(self, name: str, update: np.ndarray) -> None:
        """Keep the update of ``name``. A full disk keeps nothing, which costs only time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
            try:
                with os.fdopen(descriptor, "wb") as handle:
                    np.save(handle, update, allow_pickle=False)
                os.replace(partial, self._path(name))
                if self._limit is not None:
                    trim_results(self._root, self._limit)
            except OSError:
                os.unlink(partial)
        except OSError:
            return

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy"


def trim_results(folder: Path, limit: int) -> int:
    """Drop kept results, the longest unused first, until they take at most ``limit`` bytes.

    Returns the bytes dropped. Whoever still wants one computes it again.
    """
    found = []
    for path in folder.glob("*/*/*"):
        try:
            status = path.stat()
        except OSError:  # somebody else dropped it
            continue
        found.append((status.st_mtime, status.st_size, path))
    surplus = sum(size for _used, size, _path in found) - limit
    dropped = 0
    for _used, size, path in sorted(found, key=lambda item: item[0]):
        if dropped >= surplus:
            break
        path.unlink(missing_ok=True)
        dropped += size
    return dropped
