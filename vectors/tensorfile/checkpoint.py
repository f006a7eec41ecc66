"""A checkpoint: one safetensors file, or shards joined by ``model.safetensors.index.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from .errors import TensorFileError, _
from .forms import check_path
from .header import Header, TensorEntry, read_header, shown
from .source import ByteSource, FileSource, read_bytes

MAX_INDEX_BYTES = 64 * 2**20


class TensorLike(Protocol):
    """What can be read as a tensor of a checkpoint is read: bytes by position, from any thread."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def count(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from its byte ``offset`` on."""


@dataclass(frozen=True)
class Tensor:
    """A tensor and the file that holds it."""

    entry: TensorEntry
    source: ByteSource

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def dtype(self) -> str:
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes

    @property
    def count(self) -> int:
        return self.entry.count

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from its byte ``offset`` on."""
        self.source.read_into(self.entry.start + offset, buffer)


@dataclass(frozen=True)
class Shard:
    """One weight file of a checkpoint."""

    path: str
    source: ByteSource
    header: Header


class Checkpoint:
    """Tensors by name, over all shards, read by position.

    ``shards`` keep the order of their paths; ``tensors`` keep file order within a shard.
    """

    def __init__(self, shards: Iterable[Shard]) -> None:
        self.shards = sorted(shards, key=lambda shard: shard.path)
        self.tensors: dict[str, Tensor] = {}
        for shard in self.shards:
            for entry in shard.header.tensors:
                if entry.name in self.tensors:
                    raise TensorFileError(
                        _("`%(tensor)s` is in two files: %(first)s and %(second)s."),
                        tensor=entry.name,
                        first=self.tensors[entry.name].source.name,
                        second=shard.path,
                    )
                self.tensors[entry.name] = Tensor(entry, shard.source)

    @classmethod
    def open(cls, files: Mapping[str, ByteSource], stem: str = "model") -> Checkpoint:
        """Open the checkpoint among ``files`` (repository path → bytes).

        ``stem`` is ``model``, ``delta`` or ``adapter_model``. With an index every shard must be
        present and hold exactly the tensors the index gives it; other weight files are no part of
        the checkpoint. Raises TensorFileError.
        """
        index_path = f"{stem}.safetensors.index.json"
        single = f"{stem}.safetensors"
        if index_path in files and single in files:
            raise TensorFileError(
                _(
                    "There are both %(file)s and %(index)s: loaders disagree on which one counts. "
                    "Remove the one you do not mean."
                ),
                file=single,
                index=index_path,
            )
        if index_path in files:
            weight_map = _read_index(files[index_path])
            shards = [_shard(path, files, index_path) for path in sorted(set(weight_map.values()))]
            checkpoint = cls(shards)
            _check_index(weight_map, shards, index_path)
            return checkpoint
        if single in files:
            return cls([Shard(single, files[single], read_header(files[single]))])
        weights = [path for path in files if path.endswith(".safetensors")]
        if any(path.startswith(f"{stem}-") for path in weights):
            raise TensorFileError(
                _("The shards come without %(index)s: add it, it says which tensor is where."),
                index=index_path,
            )
        if len(weights) == 1:
            return cls([Shard(weights[0], files[weights[0]], read_header(files[weights[0]]))])
        raise TensorFileError(
            _("There is no %(file)s and no %(index)s among the files."),
            file=single,
            index=index_path,
        )

    @classmethod
    def open_folder(cls, folder: Path, stem: str = "model") -> Checkpoint:
        """Open the checkpoint in a local ``folder``."""
        files: dict[str, ByteSource] = {
            path.name: FileSource(path, f"{folder.name}/{path.name}")
            for path in sorted(folder.iterdir())
            if path.name.endswith((".safetensors", ".safetensors.index.json"))
        }
        return cls.open(files, stem)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.count for tensor in self.tensors.values())

    def close(self) -> None:
        for shard in self.shards:
            shard.source.close()


def read_json(source: ByteSource, limit: int = 4 * 2**20) -> dict[str, Any]:
    """Return the JSON object in ``source``; raise TensorFileError if it is anything else."""
    if source.size > limit:
        raise TensorFileError(
            _("%(file)s has %(size)d bytes; at most %(limit)d are accepted."),
            file=source.name,
            size=source.size,
            limit=limit,
        )
    try:
        document = json.loads(read_bytes(source).decode("utf-8"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise TensorFileError(_("%(file)s is not a JSON object."), file=source.name)
    return document


def _read_index(source: ByteSource) -> dict[str, str]:
    weight_map = read_json(source, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise TensorFileError(_("%(file)s has no weight_map."), file=source.name)
    for name, path in weight_map.items():
        if not isinstance(path, str) or PurePosixPath(path).name != path:
            raise TensorFileError(
                _("%(file)s gives `%(tensor)s` a file outside the folder."),
                file=source.name,
                tensor=shown(name),
            )
    for path in set(weight_map.values()):
        check_path(path)
    return weight_map


def _shard(path: str, files: Mapping[str, ByteSource], index_path: str) -> Shard:
    if path not in files:
        raise TensorFileError(
            _("The shard %(file)s is missing: %(index)s names it. Add it to the upload."),
            file=path,
            index=index_path,
        )
    return Shard(path, files[path], read_header(files[path]))


def _check_index(weight_map: dict[str, str], shards: list[Shard], index_path: str) -> None:
    actual = {entry.name: shard.path for shard in shards for entry in shard.header.tensors}
    for name, path in weight_map.items():
        if actual.get(name) != path:
            raise TensorFileError(
                _("%(index)s puts `%(tensor)s` into %(file)s, but it is not there."),
                index=index_path,
                tensor=shown(name),
                file=path,
            )
    for name, path in actual.items():
        if name not in weight_map:
            raise TensorFileError(
                _("%(file)s holds `%(tensor)s`, which %(index)s does not name."),
                index=index_path,
                tensor=name,
                file=path,
            )
