"""``GET /api/models``: foundations and vectors in one list, in pages.

The database narrows, orders and cuts; a page costs the same few queries whatever it holds. Pages
follow each other by the last row of the one before, so that none is shown twice or left out when
something is published meanwhile.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db.models import F, IntegerField, Q, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils.dateparse import parse_datetime

from marketplace.hub.errors import bad_request
from marketplace.hub.filters import Sides, narrowed
from marketplace.hub.info import expanded, only
from marketplace.hub.paging import link_to_next, number_of
from marketplace.hub.requests import Caller, hub_view
from marketplace.hub.rows import FOUNDATION, VECTOR, rows_of
from marketplace.hub.trending import trending_key
from vectors.errors import _
from vectors.models import Foundation, Vector

PAGE = 1000
COSTLY_PAGE = 100  # where something is read from the files of each repository
# Key of the order by the protocol's name: of the vectors, of the foundations.
_SORTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "createdAt": lambda: (F("created"), F("created")),
    "lastModified": lambda: (Coalesce("current__published", "created"), F("created")),
    "downloads": lambda: (F("downloads"), F("downloads")),
    "likes": lambda: (F("likes"), F("likes")),
    "trendingScore": lambda: (trending_key(Vector), trending_key(Foundation)),
}
_ALSO = {
    "created_at": "createdAt",
    "last_modified": "lastModified",
    "trending_score": "trendingScore",
}


@hub_view("GET", "HEAD")
def list_models(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Foundations, and the vectors that the caller may know of; recipes are not listed."""
    asked = Asked.of(request.GET)
    found = _keys(narrowed(request.GET, caller), asked)
    page = rows_of([(kind, pk) for _key, kind, pk in found[: asked.size]], asked.more)
    response = JsonResponse([only(row, asked.expand) for row in page], safe=False)
    if len(found) > asked.size:
        response.headers["Link"] = link_to_next(request, _written(*found[asked.size - 1]))
    return response


@dataclass(frozen=True)
class Asked:
    """How an address wants its list: in what order, from where on, and with which properties."""

    sort: str
    descending: bool
    size: int
    after: tuple[Any, int, int] | None
    expand: Collection[str]
    more: Collection[str]  # costly properties to tell beside those of the rows

    @classmethod
    def of(cls, get: QueryDict) -> Asked:
        """Read an address. Raises HubError 400 for what makes no sense."""
        expand = expanded(get)
        more = set(expand)
        more |= {"siblings"} if _flag(get, "full") else set()
        more |= {"cardData"} if _flag(get, "cardData") else set()
        more |= {"config"} if _flag(get, "config") else set()
        sort = _ALSO.get(get.get("sort", ""), get.get("sort", "")) or "createdAt"
        if sort not in _SORTS:
            raise bad_request(
                _("`sort` takes %(known)s, not `%(sort)s`.")
                % {"known": ", ".join(_SORTS), "sort": sort[:60]}
            )
        more |= {"trendingScore"} if sort == "trendingScore" else set()
        most = COSTLY_PAGE if more & {"cardData", "config", "safetensors"} else PAGE
        size = min(number_of(get.get("limit", "")) or most, most)
        after = _read(get.get("cursor", ""), sort)
        return cls(sort, get.get("direction", "-1") != "1", size, after, expand, more)


def _flag(get: QueryDict, name: str) -> bool:
    return get.get(name, "").lower() in ("1", "true")


def _keys(sides: Sides, asked: Asked) -> list[tuple[Any, int, int]]:
    """(key, kind, id) of each row of a page and of the one after it, in order."""
    parts = []
    for kind, side, key in zip((VECTOR, FOUNDATION), sides, _SORTS[asked.sort](), strict=True):
        rows = side.order_by().annotate(key=key, kind=Value(kind, IntegerField()), row=F("pk"))
        if asked.after is not None:
            rows = rows.filter(_beyond(asked.after, kind, asked.descending))
        parts.append(rows.values_list("key", "kind", "row"))
    sign = "-" if asked.descending else ""
    order = [sign + name for name in ("key", "kind", "row")]
    return list(parts[0].union(parts[1], all=True).order_by(*order)[: asked.size + 1])


def _beyond(after: tuple[Any, int, int], kind: int, descending: bool) -> Q:
    """The rows of ``kind`` that come after ``after`` in the order (key, kind, id)."""
    key, its_kind, row = after
    side = "lt" if descending else "gt"
    question = Q(**{f"key__{side}": key})
    if kind == its_kind:
        question |= Q(key=key, **{f"pk__{side}": row})
    elif (kind < its_kind) == descending:
        question |= Q(key=key)
    return question


def _written(key: Any, kind: int, row: int) -> str:
    said = [key.isoformat() if isinstance(key, datetime) else key, kind, row]
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


def _read(text: str, sort: str) -> tuple[Any, int, int] | None:
    if not text:
        return None
    try:
        key, kind, row = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if sort in ("createdAt", "lastModified"):
            moment = parse_datetime(key)
            key = moment and moment.astimezone(UTC)
        if not {each.__class__ for each in (key, kind, row)} <= {int, datetime}:
            raise ValueError(key)
        return key, kind, row
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise bad_request(_("This `cursor` is none of ours: begin again without it.")) from error
