"""Rate limits: so many requests of one reader in each window of time, told in every answer.

The headers are those of the IETF's draft (RateLimit, RateLimit-Policy) as the clients parse them:
who has none left waits for ``t`` seconds and asks again by itself.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest

from marketplace.hub.errors import HubError
from marketplace.hub.readers import reader_of
from vectors.errors import _

if TYPE_CHECKING:
    from marketplace.hub.requests import Caller

API, RESOLVERS = "api", "resolvers"  # the public hub's names: the client shows them


def spend(request: HttpRequest, caller: Caller | None) -> dict[str, str]:
    """Take one request from what ``caller`` has left (None: nobody known, the address pays).

    Returns the headers that say how much is left now. Raises HubError 429 when nothing is.
    """
    name = API if request.path.startswith("/api/") else RESOLVERS
    limit = settings.ARMORY_RATE_API if name == API else settings.ARMORY_RATE_RESOLVE
    window = settings.ARMORY_RATE_SECONDS
    if not limit:
        return {}
    began, passed = divmod(int(time.time()), window)
    reader = reader_of(request, caller.user if caller else None)
    used = _add_one(f"rate:{name}:{reader}:{began}", window)
    wait = window - passed
    headers = {
        "RateLimit": f'"{name}";r={max(0, limit - used)};t={wait}',
        "RateLimit-Policy": f'"fixed window";"{name}";q={limit};w={window}',
    }
    if used > limit:
        raise HubError(
            429,
            _("Too many requests: %(limit)d in %(window)d s. Ask again in %(wait)d s.")
            % {"limit": limit, "window": window, "wait": wait},
            headers={**headers, "Retry-After": str(wait)},
        )
    return headers


def _add_one(key: str, window: int) -> int:
    cache.add(key, 0, window + 1)
    try:
        return cache.incr(key)
    except ValueError:  # the cache made room in this very moment
        return 1
