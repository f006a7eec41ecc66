"""Rows of a catalogue without weights: what listing and counting need of a shop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from django.contrib.auth.models import User

from vectors.commits import commit_id
from vectors.describe import describe, fields_from_card
from vectors.models import Blob, Foundation, Vector, Version
from vectors.search import index

_serial = count(1)


def blob(size: int = 1000) -> Blob:
    return Blob.objects.create(sha256=f"{next(_serial):064x}", size=size)


def foundation(repo_id: str, card: str = "", **fields: Any) -> Foundation:
    """A foundation with a file of weights, as rows alone."""
    namespace, _slash, name = repo_id.partition("/")
    serial = next(_serial)
    values = {"parameters": 7 * 10**9, "nbytes": 14 * 10**9, "dtype": "BF16", "manifest": {}}
    row = Foundation(
        namespace=namespace,
        name=name,
        fingerprint=f"{serial:064x}",
        commit=commit_id({}, salt=f"foundation {serial}"),
        **{**values, **fields},
    )
    describe(row, card, fields_from_card(card))
    row.save()
    row.files.create(path="model.safetensors", blob=blob())
    return row


def vector(
    repo_id: str,
    owner: User,
    base: Foundation,
    card: str = "",
    *,
    form: str = "lora",
    **fields: Any,
) -> Vector:
    """A published vector with a file of weights, as rows alone."""
    name, serial = repo_id.partition("/")[2], next(_serial)
    row = Vector(namespace=owner.get_username(), name=name, owner=owner, foundation=base, **fields)
    describe(row, card, fields_from_card(card))
    row.save()
    version = Version.objects.create(
        owner=owner,
        vector=row,
        number=1,
        foundation=base,
        state=Version.State.PUBLISHED,
        form=form,
        digest=f"{serial:064x}",
        commit=commit_id({}, salt=f"version {serial}"),
        published=datetime.now(UTC),
        card=card,
        nbytes=1000,
        verdict={"touched": 1, "of": 1, "ratio": 0.1, "warnings": [], "notes": []},
        layers=[{"label": "0", "ratio": 0.1, "share": 1.0}],
    )
    path = "adapter_model.safetensors" if form == "lora" else "model.safetensors"
    version.files.create(path=path, blob=blob())
    row.current = version
    row.save()
    index(row)
    return row


def aged(row: Vector | Foundation, days: int) -> None:
    """Set back when the row was made."""
    made = datetime.now(UTC) - timedelta(days=days)
    type(row).objects.filter(pk=row.pk).update(created=made)
    if isinstance(row, Vector):
        row.versions.update(published=made)
