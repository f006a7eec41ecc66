"""Files of foundations and versions, opened for reading wherever their bytes lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vectors.inspection import open_content
from vectors.models import Foundation, RepositoryFile, Version
from vectors.storage.current import storage
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.source import ByteSource, read_bytes

WEIGHTS = (".safetensors", ".safetensors.index.json")
MAX_TEXT = 4 * 2**20


def open_files(owner: Foundation | Version) -> dict[str, ByteSource]:
    """Every file of ``owner``, by path. Close what you open."""
    return {file.path: _open(file) for file in owner.files.all()}


def weight_sources(owner: Foundation | Version) -> dict[str, ByteSource]:
    """Only the files that hold tensors or say where tensors are."""
    wanted = [
        file
        for file in owner.files.all()
        if file.path.endswith(WEIGHTS) or file.path == "adapter_config.json"
    ]
    return {file.path: _open(file) for file in wanted}


def _open(file: RepositoryFile) -> ByteSource:
    return called(file.path, storage().open(file.blob_id))


def called(path: str, source: ByteSource) -> ByteSource:
    """``source`` under the name its owner gave it: sentences about it name the file, not a hash."""
    source.name = path
    return source


@contextmanager
def opened(foundation: Foundation) -> Iterator[Checkpoint]:
    """The weights of ``foundation``, closed afterwards."""
    checkpoint = open_weights(foundation)
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def open_weights(foundation: Foundation) -> Checkpoint:
    """The weights of ``foundation``."""
    return Checkpoint.open(weight_sources(foundation))


def open_version(version: Version) -> tuple[str, Checkpoint | Adapter, Checkpoint]:
    """Form, content, and the checkpoint to close, of ``version``."""
    return open_content(weight_sources(version))


def read_text(owner: Foundation | Version, path: str) -> str | None:
    """A small text file of ``owner``, None when it is not there or is not text."""
    file = (
        RepositoryFile.objects.filter(
            path=path,
            **({"foundation": owner} if isinstance(owner, Foundation) else {"version": owner}),
        )
        .select_related("blob")
        .first()
    )
    if file is None or file.blob.size > MAX_TEXT:
        return None
    source = storage().open(file.blob_id)
    try:
        return read_bytes(source).decode("utf-8")
    except UnicodeDecodeError:
        return None
    finally:
        source.close()
