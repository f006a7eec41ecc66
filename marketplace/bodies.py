"""A request whose body is too long is refused before it fills the disk.

Django spools a whole body into a temporary file before any view, and so any permission, sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.utils.translation import gettext as _

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _TooLong(Exception):
    pass


def limit_bodies(application: Application, limit: int, longer: Mapping[str, int]) -> Application:
    """``application``, with bodies of at most ``limit`` bytes.

    ``longer`` maps patterns of whole paths to limits of their own. What is longer gets 413 and one
    sentence, also when no Content-Length announced it.
    """
    patterns = [(re.compile(pattern), most) for pattern, most in longer.items()]

    def limit_of(path: str) -> int:
        return next((most for pattern, most in patterns if pattern.fullmatch(path)), limit)

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        most = limit_of(scope["path"])
        arrived = _announced(scope)
        if arrived > most:
            return await _refuse(send, most)
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > most:
                raise _TooLong
            return message

        try:
            return await application(scope, counted, send)
        except _TooLong:
            return await _refuse(send, most)

    return limited


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _refuse(send: Send, most: int) -> None:
    sentence = _(
        "This request has more than %(limit)d MiB, the most that is taken at this address."
    )
    body = json.dumps({"error": sentence % {"limit": most >> 20}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is still on its way is not read
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
