"""The files of an equipped model: stored ones, written ones, and ones computed as they leave."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

from zipstream import ZIP_STORED, ZipStream

from merging.build_models import BuildFile
from merging.build_reading import built_file, built_files, read_built
from merging.builds import etag_of
from merging.card import readme, recipe_yaml
from merging.engine.adapter_out import CONFIG_FILE, WEIGHTS_FILE
from merging.engine.difference import change_of, lay_out_change
from merging.engine.errors import RecipeError
from merging.engine.joined import is_sum_of_loras, joined_lora
from merging.engine.layout import VirtualFile
from merging.engine.local_files import LEFT_OUT
from merging.engine.recipe import Recipe
from merging.engine.run import stream_ahead
from merging.hashes import hashed, known_hash, known_hashes
from merging.kept_open import kept_equipped
from merging.models import EquippedModel
from vectors.downloads import read_blob
from vectors.models import Blob, Foundation, RepositoryFile, Version

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_ADAPTER = {"adapter_config.json"}


@dataclass(frozen=True)
class OutputFile:
    """One file of an equipped repository.

    ``etag`` stands for the bytes of a computed file and never looks like a SHA-256, which clients
    would check; ``sha256`` is empty until such a file has been computed once as a whole (its
    ``digest`` is what was known when it was listed). ``built`` is the same file in storage.
    """

    path: str
    size: int
    etag: str
    blob: Blob | None = None
    content: bytes | None = None
    virtual: VirtualFile | None = None
    digest: str = ""
    built: BuildFile | None = None

    @property
    def sha256(self) -> str:
        """The hash of the bytes, where somebody has computed it."""
        if self.blob is not None:
            return self.blob.sha256
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        return self.digest

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``[start, stop)`` in pieces. Virtual files need their checkpoints open."""
        stop = self.size if stop is None else stop
        if self.built is not None:
            yield from read_built(self.built, start, stop, self.compute)
        elif self.virtual is not None:
            yield from self.compute(start, stop)
        elif self.blob is not None:
            yield from read_blob(self.blob.sha256, start, stop)
        elif self.content is not None and start < stop:
            yield self.content[start:stop]

    def compute(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``[start, stop)`` of a virtual file, whatever lies in storage."""
        assert self.virtual is not None
        pieces = stream_ahead(self.virtual, start, stop)
        if (start, stop) == (0, self.size) and not self.digest:
            pieces = hashed(pieces, self.etag, self.size)
        yield from pieces


class Opened:
    """An equipped repository with its checkpoints open, until ``close``."""

    def __init__(self, row: EquippedModel) -> None:
        self.row = row
        self._context = kept_equipped(row)
        self.equipment = self._context.__enter__()

    @cached_property
    def files(self) -> dict[str, OutputFile]:
        """Every file by path. Listing takes longer than opening, so it waits until it is asked."""
        return {file.path: file for file in self._list()}

    @cached_property
    def computed(self) -> list[OutputFile]:
        """The files whose bytes are computed, with what is known of each by now."""
        virtual = self.equipment.model.files
        etags = {path: etag_of(self.row, path) for path in virtual}
        digests, built = known_hashes(etags.values()), built_files(self.row.pk)
        return [
            OutputFile(
                path,
                file.size,
                etags[path],
                virtual=file,
                digest=digests.get(etags[path], ""),
                built=built.get(etags[path]),
            )
            for path, file in virtual.items()
        ]

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def compute(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """Stream a range of a computed file and close everything at its end, whatever it is."""
        try:
            virtual, etag = self.equipment.model.files[path], etag_of(self.row, path)
            file = OutputFile(path, virtual.size, etag, virtual=virtual, digest=known_hash(etag))
            yield from file.compute(start, stop)
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
            yield OutputFile(path, len(content), etag_of(row, path), content=content)
        yield from self.computed


def read_weights(pk: int, path: str, etag: str, start: int, stop: int) -> Iterator[bytes]:
    """Bytes ``[start, stop)`` of a computed file of the recipe ``pk``: as they lie in storage, else
    computed while they leave. What they are computed from is opened in the latter case alone."""

    def stream(start: int, stop: int) -> Iterator[bytes]:
        return Opened(EquippedModel.objects.get(pk=pk)).compute(path, start, stop)

    built = built_file(pk, etag)
    return stream(start, stop) if built is None else read_built(built, start, stop, stream)


def configuration(row: EquippedModel, source: str) -> dict[str, Blob]:
    """Configuration and tokenizer of the result, by path."""
    versions = [term.version for term in row.terms.all()]
    return configuration_of(row.recipe, row.foundation, row.target, versions, source)


def configuration_of(
    recipe: Recipe,
    foundation: Foundation,
    target: Version | None,
    versions: Iterable[Version],
    source: str,
) -> dict[str, Blob]:
    """Files beside the weights, by path: the foundation's, overlaid by the target's own (or by
    those of the one checkpoint the recipe is)."""
    owners: list[Foundation | Version] = [foundation]
    if source not in (recipe.foundation, recipe.target):
        owners.extend(version for version in versions if version.digest == source)
    elif source == recipe.target and target is not None:
        owners.append(target)
    found: dict[str, Blob] = {}
    for owner in owners:
        for file in owner.files.select_related("blob"):
            if _is_configuration(file):
                found[file.path] = file.blob
    return found


def _is_configuration(file: RepositoryFile) -> bool:
    name = file.path.rsplit("/", 1)[-1]
    return name not in LEFT_OUT | _ADAPTER and not name.endswith(_WEIGHTS)


def difference_file(opened: Opened) -> OutputFile | None:
    """What the recipe adds to its target, in one file; None where that is nothing."""
    try:
        change = change_of(opened.equipment)
    except RecipeError:
        return None
    ((path, file),) = lay_out_change(change, one_file=True).files.items()
    etag = etag_of(opened.row, path)
    return OutputFile(path, file.size, etag, virtual=file, digest=known_hash(etag))


def read_difference(row: EquippedModel, start: int, stop: int) -> Iterator[bytes]:
    """Bytes ``[start, stop)`` of the difference, computed while they leave."""
    with closing(Opened(row)) as opened:
        file = difference_file(opened)
        assert file is not None
        yield from file.read(start, stop)


def lora_files(opened: Opened) -> list[OutputFile]:
    """The recipe as one LoRA, exactly; none where it is no sum of LoRAs."""
    row = opened.row
    if not is_sum_of_loras(opened.equipment):
        return []
    target = row.target.vector if row.target is not None and row.target.vector else row.foundation
    try:
        lora = joined_lora(opened.equipment, base=target.repo_id)
    except RecipeError:
        return []
    etag = etag_of(row, WEIGHTS_FILE)
    small = {CONFIG_FILE: lora.config, "recipe.yaml": recipe_yaml(row).encode()}
    return [
        *(OutputFile(path, len(held), etag_of(row, path), content=held)
          for path, held in small.items()),
        OutputFile(WEIGHTS_FILE, lora.weights.size, etag, virtual=lora.weights,
                   digest=known_hash(etag)),
    ]  # fmt: skip


Choose = Callable[[Opened], Iterable[OutputFile]]


def every_file(opened: Opened) -> Iterable[OutputFile]:
    """The equipped model's repository."""
    return opened.files.values()


def zip_size(row: EquippedModel, folder: str, choose: Choose = every_file) -> int:
    """Exact bytes of the chosen files as one stored .zip."""
    with closing(Opened(row)) as opened:
        return len(_archive(choose(opened), folder))


def zip_pieces(row: EquippedModel, folder: str, choose: Choose = every_file) -> Iterator[bytes]:
    """The chosen files as one stored .zip, computed while it leaves."""
    with closing(Opened(row)) as opened:
        yield from _archive(choose(opened), folder)


def _archive(files: Iterable[OutputFile], folder: str) -> ZipStream:
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for file in files:
        archive.add(file.read(), arcname=f"{folder}/{file.path}", size=file.size)
    return archive
