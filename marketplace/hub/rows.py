"""The rows of one page of the listing, read in a few queries whatever the page holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from django.db.models import Count, Q
from django.db.models.functions import Left

from marketplace.hub import facts
from marketplace.hub.facts import iso
from marketplace.hub.files import HubFile, stored_file
from marketplace.hub.trending import trending_key
from merging.models import EquippedModel
from vectors.commits import commit_of
from vectors.models import Foundation, RepositoryFile, Vector

FOUNDATION, VECTOR = 0, 1
_OF_FILES = {"config", "safetensors", "siblings"}
_UNTOLD = ("card_html", "search_text")

Key = tuple[int, int]  # kind and id


def rows_of(keys: Sequence[Key], more: Collection[str]) -> list[dict[str, Any]]:
    """What the listing tells of ``keys``, in their order; costly properties where in ``more``."""
    ids = {kind: [pk for its, pk in keys if its == kind] for kind in (FOUNDATION, VECTOR)}
    vectors = _vectors(ids[VECTOR], more) if ids[VECTOR] else {}
    foundations = _foundations(ids[FOUNDATION], more) if ids[FOUNDATION] else {}
    files = _files(vectors, foundations) if _OF_FILES.intersection(more) else {}
    children = _children(ids) if "childrenModelCount" in more else {}
    rows = []
    for key in keys:
        kind, pk = key
        row = (vectors if kind == VECTOR else foundations).get(pk)
        if row is not None:  # else it went in this very moment
            rows.append(
                {**_facts(row), **_costly(row, more, files.get(key, {}), children.get(key, 0))}
            )
    return rows


def _vectors(ids: Sequence[int], more: Collection[str]) -> dict[int, Any]:
    rows = Vector.objects.select_related("foundation", "current").defer(
        *_UNTOLD,
        *(f"foundation__{name}" for name in (*_UNTOLD, "manifest", "card", "sigil")),
        *(f"current__{name}" for name in ("card", "layers", "sigil", "abilities", "examples")),
    )
    return _loaded(rows, Vector, ids, more)


def _foundations(ids: Sequence[int], more: Collection[str]) -> dict[int, Any]:
    return _loaded(Foundation.objects.defer(*_UNTOLD, "manifest", "sigil"), Foundation, ids, more)


def _loaded(rows: Any, model: Any, ids: Sequence[int], more: Collection[str]) -> dict[int, Any]:
    if "cardData" not in more:
        rows = rows.defer("card")
    if "trendingScore" in more:
        rows = rows.annotate(trending=trending_key(model))
    rows = rows.annotate(front=Left("card", facts.FRONT_CHARS)).filter(pk__in=ids)
    return {row.pk: row for row in rows}


def _facts(row: Any) -> dict[str, Any]:
    card, state, moment = row.front, row, row.created
    if isinstance(row, Foundation):
        told = facts.foundation_facts(row, card)
    else:
        state, moment = row.current, row.current.published or moment
        told = facts.vector_facts(row, state, card)
    return {**told, "sha": commit_of(state), "lastModified": iso(moment)}


def _costly(
    row: Any, more: Collection[str], files: dict[str, HubFile], children: int
) -> dict[str, Any]:
    make: dict[str, Callable[[], Any]] = {
        "cardData": lambda: facts.card_data(row.card),
        "childrenModelCount": lambda: children,
        "config": lambda: facts.config(files),
        "safetensors": lambda: facts.safetensors(files),
        "siblings": lambda: facts.siblings(files),
        "trendingScore": lambda: row.trending,
    }
    found = {name: make[name]() for name in make if name in more}
    return {name: value for name, value in found.items() if value is not None}


def _files(vectors: dict[int, Any], foundations: dict[int, Any]) -> dict[Key, dict[str, HubFile]]:
    owners = {vector.current_id: pk for pk, vector in vectors.items()}
    rows = RepositoryFile.objects.filter(
        Q(version__in=owners.keys()) | Q(foundation__in=foundations.keys())
    )
    found: dict[Key, dict[str, HubFile]] = defaultdict(dict)
    for row in rows.select_related("blob").order_by("path"):
        key = (
            (VECTOR, owners[row.version_id])
            if row.version_id is not None
            else (FOUNDATION, row.foundation_id or 0)
        )
        found[key][row.path] = stored_file(row.path, row.blob)
    return found


def _children(ids: dict[int, list[int]]) -> dict[Key, int]:
    """Published vectors of the foundations, recipes that the vectors are terms of."""
    vectors = (
        Vector.objects.published()
        .filter(foundation__in=ids[FOUNDATION])
        .values_list("foundation")
        .annotate(n=Count("pk"))
        .order_by()
    )
    recipes = (
        EquippedModel.objects.filter(terms__version__vector__in=ids[VECTOR])
        .values_list("terms__version__vector")
        .annotate(n=Count("pk", distinct=True))
        .order_by()
    )
    return {
        **{(FOUNDATION, pk): n for pk, n in vectors},
        **{(VECTOR, pk): n for pk, n in recipes},
    }
