"""Addresses that take what a form sends, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

View = Callable[..., HttpResponseBase]


def number_of(text: str | None) -> int:
    """A row's number as a form sends it; 0, which no row has, for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else 0


def post_only(page: str, *names: str, fragment: str = "") -> Callable[[View], View]:
    """A view that changes something, and so is called by POST alone.

    Who comes to its address in another way (loading again what was refused, in another language,
    back from signing in) is led to the page with its form: ``page``, called with those of the
    view's arguments that are ``names``. The query goes with them. Outermost of the decorators.
    """

    def decorate(view: View) -> View:
        posted = require_POST(view)

        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method not in ("GET", "HEAD"):
                return posted(request, *args, **kwargs)
            address = reverse(page, kwargs={name: kwargs[name] for name in names})
            query = request.META.get("QUERY_STRING", "")
            return redirect(f"{address}?{query}{fragment}" if query else f"{address}{fragment}")

        return answer

    return decorate
