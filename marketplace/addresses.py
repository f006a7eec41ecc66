"""Addresses that nothing can have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

Answer = Callable[[HttpRequest], Any]


@sync_and_async_middleware
def no_nul(get_response: Answer) -> Answer:
    """404 for an address with the character 0 in it: nothing is called so, and PostgreSQL breaks
    off where it is asked."""

    def check(request: HttpRequest) -> None:
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            raise Http404

    if iscoroutinefunction(get_response):
        answer: Callable[[HttpRequest], Awaitable[HttpResponse]] = get_response

        async def checked_async(request: HttpRequest) -> HttpResponse:
            check(request)
            return await answer(request)

        return checked_async

    def checked(request: HttpRequest) -> HttpResponse:
        check(request)
        response: HttpResponse = get_response(request)
        return response

    return checked
