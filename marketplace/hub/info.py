"""The JSON of ``model_info``: everything the protocol tells of one repository at one commit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.http import QueryDict

from marketplace.hub import facts
from marketplace.hub.errors import bad_request
from marketplace.hub.facts import PROPERTIES, iso
from marketplace.hub.repositories import Repository, Snapshot
from marketplace.hub.trending import trending_score
from merging.models import EquippedModel
from vectors.errors import _
from vectors.models import Foundation, Vector, Version

__all__ = ["expanded", "info_of", "iso"]

CARD = "README.md"
MAX_CARD = 1 << 20


def info_of(
    repository: Repository,
    snapshot: Snapshot,
    *,
    blobs: bool = False,
    expand: Collection[str] = (),
) -> dict[str, Any]:
    """``model_info`` of a repository at one of its commits; only the properties in ``expand``,
    where it names some."""
    # A revision may name a recipe on the repository: then the facts are the recipe's.
    of = snapshot.repository or repository
    row = getattr(of, "row", None)
    card = card_of(snapshot)
    costly: dict[str, Callable[[], Any]] = {
        "cardData": lambda: facts.card_data(card),
        "childrenModelCount": lambda: _children(row),
        "config": lambda: facts.config(snapshot.files),
        "safetensors": lambda: facts.safetensors(snapshot.files),
        "siblings": lambda: facts.siblings(snapshot.files, blobs=blobs),
        "trendingScore": lambda: trending_score(row),
    }
    told = {name: make() for name, make in costly.items() if not expand or name in expand}
    data = {
        **_facts(of, snapshot, card),
        "id": repository.id,
        "modelId": repository.id,
        "private": of.private,
        "gated": of.gated,
        "disabled": False,
        "sha": snapshot.commit,
        "lastModified": iso(snapshot.created),
        **{name: value for name, value in told.items() if value is not None},
    }
    return only(data, expand)


def only(data: dict[str, Any], expand: Collection[str]) -> dict[str, Any]:
    """``data`` with the properties in ``expand`` and the names of the repository alone."""
    if not expand:
        return data
    return {key: value for key, value in data.items() if key in ("_id", "id") or key in expand}


def expanded(get: QueryDict) -> set[str]:
    """The properties that an address asks for. Raises HubError 400 for one there is not."""
    named = [name for key in ("expand", "expand[]") for name in get.getlist(key)]
    asked = {word.strip() for name in named for word in name.split(",") if word.strip()}
    unknown = sorted(asked - PROPERTIES)
    if unknown:
        raise bad_request(
            _("`expand` takes %(known)s, not `%(unknown)s`.")
            % {"known": ", ".join(sorted(PROPERTIES)), "unknown": unknown[0][:60]}
        )
    return asked


def card_of(snapshot: Snapshot) -> str:
    """The card of a commit: the text that was published with it, else its README.md."""
    source = snapshot.source
    if source is not None and source.card:
        return source.card
    file = snapshot.files.get(CARD)
    if file is None or file.size > MAX_CARD:
        return ""
    return b"".join(file.read(0, file.size)).decode("utf-8", "replace")


def _facts(repository: Repository, snapshot: Snapshot, card: str) -> dict[str, Any]:
    source, row = snapshot.source, getattr(repository, "row", None)
    if isinstance(row, Foundation):
        return facts.foundation_facts(row, card)
    if isinstance(row, Vector) and isinstance(source, Version):
        return facts.vector_facts(row, source, card)
    told = {
        "_id": f"{repository.kind}-{getattr(row, 'pk', 0)}",
        "author": repository.id.partition("/")[0],
        "createdAt": iso(getattr(row, "created", snapshot.created)),
        "downloads": 0,
        "downloadsAllTime": 0,
        "likes": 0,
        **facts.card_facts(card),
    }
    if isinstance(row, EquippedModel):
        told |= {"downloads": row.equips, "downloadsAllTime": row.equips, "usedStorage": row.nbytes}
    return told


def _children(row: object) -> int:
    """How many published vectors a foundation has; how many recipes a vector is part of."""
    if isinstance(row, Foundation):
        return Vector.objects.published().filter(foundation=row).count()
    if isinstance(row, Vector):
        return EquippedModel.objects.filter(terms__version__vector=row).distinct().count()
    return 0
