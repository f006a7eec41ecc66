"""The files of an equipped model: stored ones, written ones, and ones computed as they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from zipstream import ZIP_STORED, ZipStream

from merging.card import readme, recipe_yaml
from merging.engine.layout import VirtualFile
from merging.engine.local import LEFT_OUT
from merging.engine.run import PIECE_BYTES, identity, stream
from merging.models import EquippedModel
from merging.opening import opened_equipped
from vectors.models import Blob, Foundation, RepositoryFile, Version
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_ADAPTER = {"adapter_config.json"}


@dataclass(frozen=True)
class OutputFile:
    """One file of an equipped repository. ``etag`` never looks like a SHA-256 unless it is one."""

    path: str
    size: int
    etag: str
    blob: Blob | None = None
    content: bytes | None = None
    virtual: VirtualFile | None = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``[start, stop)`` in pieces. Virtual files need their checkpoints open."""
        stop = self.size if stop is None else stop
        if self.virtual is not None:
            yield from stream(self.virtual, start, stop)
        elif self.blob is not None:
            with closing(storage().open(self.blob.sha256)) as source:
                for at in range(start, stop, PIECE_BYTES):
                    yield read_bytes(source, at, min(at + PIECE_BYTES, stop))
        elif self.content is not None and start < stop:
            yield self.content[start:stop]


class Opened:
    """An equipped repository with its checkpoints open, until ``close``."""

    def __init__(self, row: EquippedModel) -> None:
        self.row = row
        self._context = opened_equipped(row)
        self.equipment = self._context.__enter__()
        try:
            self.files = {file.path: file for file in self._list()}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def read(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """Stream a range of one file and close everything at its end, whatever the end is."""
        try:
            yield from self.files[path].read(start, stop)
        finally:
            self.close()

    def _list(self) -> Iterator[OutputFile]:
        row = self.row
        for path, blob in sorted(configuration(row, self.equipment.source).items()):
            yield OutputFile(path, blob.size, blob.sha256, blob=blob)
        written = {"README.md": readme(row).encode(), "recipe.yaml": recipe_yaml(row).encode()}
        if self.equipment.model.index is not None:
            written["model.safetensors.index.json"] = self.equipment.model.index
        for path, content in written.items():
            yield OutputFile(path, len(content), _etag(row, path), content=content)
        for path, file in self.equipment.model.files.items():
            yield OutputFile(path, file.size, _etag(row, path), virtual=file)


def configuration(row: EquippedModel, source: str) -> dict[str, Blob]:
    """Configuration and tokenizer of the result, by path: the foundation's, overlaid by the
    target's own (or by those of the one checkpoint the recipe is)."""
    owners: list[Foundation | Version] = [row.foundation]
    recipe = row.recipe
    if source not in (recipe.foundation, recipe.target):
        owners.extend(t.version for t in row.terms.all() if t.version.digest == source)
    elif source == recipe.target and row.target is not None:
        owners.append(row.target)
    found: dict[str, Blob] = {}
    for owner in owners:
        for file in owner.files.select_related("blob"):
            if _is_configuration(file):
                found[file.path] = file.blob
    return found


def _is_configuration(file: RepositoryFile) -> bool:
    name = file.path.rsplit("/", 1)[-1]
    return name not in LEFT_OUT | _ADAPTER and not name.endswith(_WEIGHTS)


def _etag(row: EquippedModel, path: str) -> str:
    return f"armory-{identity(row.recipe, path)[:40]}"


def zip_size(row: EquippedModel, folder: str) -> int:
    """Exact bytes of the repository as one stored .zip."""
    with closing(Opened(row)) as opened:
        return len(_archive(opened, folder))


def zip_pieces(row: EquippedModel, folder: str) -> Iterator[bytes]:
    """The repository as one stored .zip, computed while it leaves."""
    with closing(Opened(row)) as opened:
        yield from _archive(opened, folder)


def _archive(opened: Opened, folder: str) -> ZipStream:
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for path, file in opened.files.items():
        archive.add(file.read(), arcname=f"{folder}/{path}", size=file.size)
    return archive
