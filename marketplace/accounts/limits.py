"""How often one address or account may do a thing, counted in the cache."""

from __future__ import annotations

from django.core.cache import cache
from django.http import HttpRequest


def within(key: str, *, limit: int, seconds: int) -> bool:
    """Count one more of ``key``; False once there were more than ``limit`` in ``seconds``."""
    key = f"limit:{key}"
    if cache.add(key, 1, seconds):
        return True
    try:
        return cache.incr(key) <= limit
    except ValueError:  # it ran out in between
        cache.add(key, 1, seconds)
        return True


def address_of(request: HttpRequest) -> str:
    """The address a request comes from."""
    return str(request.META.get("REMOTE_ADDR") or "")[:45]
