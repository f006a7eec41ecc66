"""Foundations and vectors from local folders: the shop's own stock, and the demo's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.db import transaction

from vectors.commits import commit_of
from vectors.describe import check_free, check_name, describe, fields_from_card
from vectors.drawing import sigil
from vectors.dropping import discard, hold
from vectors.errors import Refusal, _
from vectors.inspection import per_layer
from vectors.keeping import store_bytes
from vectors.models import Blob, Foundation, Vector, Version
from vectors.services import CARD, inspect_files, publish
from vectors.sketches import keep_sketch
from vectors.storage.current import storage
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.fingerprint import combine_digests
from vectors.tensorfile.forms import check_kind, check_path
from vectors.tensorfile.measure import Measure, measure

READ_BYTES = 4 * 2**20
_IGNORED = {"__pycache__"}


def add_foundation(
    folder: Path, *, repo_id: str, card: str | None = None, user: Any = None
) -> Foundation:
    """Add the checkpoint in ``folder`` as a foundation. The same content twice is the same row.

    Raises Problem: not a checkpoint, values that are not finite, an id or content already taken.
    """
    namespace, _slash, name = repo_id.partition("/")
    check_name(namespace)
    check_name(name)
    existing = Foundation.objects.by_repo_id(repo_id).first()
    checkpoint = Checkpoint.open_folder(folder)
    try:
        if existing and _same_headers(existing, checkpoint):
            return existing
        manifest, fingerprint = _measure_foundation(checkpoint)
        parameters, nbytes = checkpoint.parameters, checkpoint.nbytes
        dtype = max(
            {tensor.dtype for tensor in checkpoint.tensors.values()},
            key=lambda d: sum(t.count for t in checkpoint.tensors.values() if t.dtype == d),
        )
    finally:
        checkpoint.close()
    twin = Foundation.objects.filter(fingerprint=fingerprint).first()
    if twin:
        if twin.repo_id == repo_id:
            return twin
        raise Refusal(
            _("This foundation is already here as %(id)s: its tensors are the same."),
            id=twin.repo_id,
        )
    check_free(namespace, name)
    text = card if card is not None else _read_text(folder / CARD)
    files = _hashed(folder)
    if card is not None:
        files.pop(CARD, None)
    _copy_in(files)
    foundation = Foundation(
        namespace=namespace,
        name=name,
        fingerprint=fingerprint,
        architecture=_architecture(folder),
        parameters=parameters,
        nbytes=nbytes,
        dtype=dtype,
        manifest=manifest,
        added_by=user,
    )
    foundation.sigil = sigil(_own_layers(foundation), fingerprint)
    describe(foundation, text, fields_from_card(text))
    with transaction.atomic():
        foundation.save()
        for path, file in files.items():
            foundation.files.create(path=path, blob=_keep(file))
        if card is not None:
            foundation.files.create(path=CARD, blob=store_bytes(card.encode()))
        foundation.commit = commit_of(foundation)
        foundation.save(update_fields=["commit"])
    return foundation


def add_vector(folder: Path, *, repo_id: str, foundation: Foundation, owner: Any) -> Version:
    """Add, inspect and publish the vector in ``folder``. The same content twice is the same row.

    Raises Problem with the inspection's sentence when it does not fit; nothing is left behind.
    """
    namespace, _slash, name = repo_id.partition("/")
    if namespace != owner.get_username():
        raise Refusal(
            _("%(id)s must begin with its owner's name, %(owner)s."),
            id=repo_id,
            owner=owner.get_username(),
        )
    check_name(name)
    vector = Vector.objects.by_repo_id(repo_id).first()
    files = _hashed(folder)
    if vector and vector.current:
        stored = dict(vector.current.files.values_list("path", "blob_id"))
        if stored == {path: file.sha256 for path, file in files.items()}:
            return vector.current
    if vector is None:
        check_free(namespace, name)
    _copy_in(files)
    text = _read_text(folder / CARD)
    fields = fields_from_card(text)
    with transaction.atomic():
        version = Version.objects.create(
            owner=owner, vector=vector, foundation=foundation, state=Version.State.INSPECTING
        )
        for path, file in files.items():
            version.files.create(path=path, blob=_keep(file))
    try:
        findings = inspect_files(version, foundation, lambda _at, _of: None)
        version.state = Version.State.READY
        version.form, version.digest = findings.form, findings.digest
        version.verdict, version.layers = findings.verdict, findings.layers
        version.sigil = sigil(findings.layers, findings.digest)
        version.nbytes = sum(file.size for file in files.values())
        version.card = text
        version.abilities, version.examples = fields["abilities"], fields["examples"]
        version.save()
        keep_sketch(version, findings.sketch)
        publish(version, name=name, fields=fields)
    except Exception:
        discard(version)
        raise
    version.refresh_from_db()
    return version


def _same_headers(existing: Foundation, checkpoint: Checkpoint) -> bool:
    # A quick look for the everyday case (the demo seeded again): same files as stored, by hash.
    stored = dict(existing.files.values_list("path", "blob_id"))
    for shard in checkpoint.shards:
        digest = hashlib.sha256()
        buffer = bytearray(READ_BYTES)
        for offset in range(0, shard.source.size, READ_BYTES):
            piece = memoryview(buffer)[: min(READ_BYTES, shard.source.size - offset)]
            shard.source.read_into(offset, piece)
            digest.update(piece)
        if stored.get(shard.path) != digest.hexdigest():
            return False
    return True


def _measure_foundation(checkpoint: Checkpoint) -> tuple[dict[str, Any], str]:
    manifest: dict[str, Any] = {}
    rows = []
    for tensor in checkpoint.tensors.values():
        found = measure(tensor)
        if found.broken:
            raise Refusal(
                _(
                    "`%(tensor)s` has values that are not finite (%(count)d of them): this "
                    "checkpoint is damaged."
                ),
                tensor=tensor.name,
                count=found.broken,
            )
        square = found.delta_square if DTYPES[tensor.dtype].mergeable else 0.0
        manifest[tensor.name] = [tensor.dtype, list(tensor.shape), square]
        rows.append((tensor.name, tensor.dtype, tensor.shape, found.digest))
    return manifest, combine_digests(rows)


def _own_layers(foundation: Foundation) -> list[dict[str, Any]]:
    measures = {
        name: Measure(delta_square=square) for name, (_d, _s, square) in foundation.manifest.items()
    }
    return per_layer(measures, foundation)


def _folder_files(folder: Path) -> dict[str, Path]:
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in _IGNORED for part in relative.parts)
        if path.is_file() and not hidden:
            check_kind(relative.as_posix())
            files[check_path(relative.as_posix())] = path
    if not files:
        raise Refusal(_("%(folder)s has no files."), folder=str(folder))
    return files


class _Hashed(NamedTuple):
    """A file of the folder that is imported."""

    file: Path
    sha256: str
    size: int


def _hashed(folder: Path) -> dict[str, _Hashed]:
    return {path: _Hashed(file, *_hash_file(file)) for path, file in _folder_files(folder).items()}


def _copy_in(files: Mapping[str, _Hashed]) -> None:
    """The slow part of keeping files, outside of any transaction."""
    for file in files.values():
        storage().put(file.file, file.sha256)


def _keep(file: _Hashed) -> Blob:
    """The file as a blob; `hold` says what the transaction around it is for."""
    blob = hold(file.sha256, file.size)
    storage().put(file.file, file.sha256)  # again only if it was dropped since _copy_in
    return blob


def _hash_file(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as handle:
        while piece := handle.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    names = config.get("architectures") if isinstance(config, dict) else None
    return str(names[0]) if isinstance(names, list) and names else str(config.get("model_type", ""))


def _read_text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""
