"""What the protocol tells of a repository: the JSON of ``model_info`` and of each listing row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marketplace.hub.repositories import Repository, Snapshot


def info_of(repository: Repository, snapshot: Snapshot, *, blobs: bool = False) -> dict[str, Any]:
    """``model_info`` of a repository at one of its commits."""
    siblings: list[dict[str, Any]] = []
    for file in snapshot.files.values():
        row: dict[str, Any] = {"rfilename": file.path}
        if blobs:
            row |= {"size": file.size, "blobId": file.oid}
            if file.sha256:
                row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
        siblings.append(row)
    return {
        "id": repository.id,
        "modelId": repository.id,
        "sha": snapshot.commit,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "lastModified": iso(snapshot.created),
        "siblings": siblings,
        "tags": [],
    }


def iso(moment: datetime) -> str:
    """A moment as the protocol writes it: UTC, with milliseconds and Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
