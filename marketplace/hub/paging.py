"""Pages of answers, each with the address of the next in ``Link``, as clients follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, JsonResponse

from marketplace.hub.requests import endpoint


def page_of(
    request: HttpRequest,
    rows: QuerySet[Any] | Sequence[Any],
    size: int,
    told: Callable[[Any], Any] = lambda row: row,
) -> JsonResponse:
    """One page of ``rows``: at most ``size``, or the ``limit`` of the address, from its ``cursor``
    on (a place in the list)."""
    limit, cursor = request.GET.get("limit", ""), request.GET.get("cursor", "")
    size = min(size, int(limit)) if limit.isdigit() and 0 < len(limit) < 12 and int(limit) else size
    start = int(cursor) if cursor.isdigit() and len(cursor) < 12 else 0
    found = list(rows[start : start + size + 1])
    response = JsonResponse([told(row) for row in found[:size]], safe=False)
    if len(found) > size:
        response.headers["Link"] = link_to_next(request, str(start + size))
    return response


def link_to_next(request: HttpRequest, cursor: str) -> str:
    """The header ``Link`` that leads to the page at ``cursor``, everything else as asked."""
    query = request.GET.copy()
    query["cursor"] = cursor
    return f'<{endpoint(request)}{request.path}?{query.urlencode()}>; rel="next"'
