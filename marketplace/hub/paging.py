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
    size = min(size, number_of(request.GET.get("limit", "")) or size)
    start = number_of(request.GET.get("cursor", ""))
    found = list(rows[start : start + size + 1])
    response = JsonResponse([told(row) for row in found[:size]], safe=False)
    if len(found) > size:
        response.headers["Link"] = link_to_next(request, str(start + size))
    return response


def number_of(text: str) -> int:
    """A number as addresses write it; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def link_to_next(request: HttpRequest, cursor: str) -> str:
    """The header ``Link`` that leads to the page at ``cursor``, everything else as asked."""
    query = request.GET.copy()
    query["cursor"] = cursor
    return f'<{endpoint(request)}{request.path}?{query.urlencode()}>; rel="next"'
