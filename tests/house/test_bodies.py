"""Bodies that are too long are refused before they are stored, announced or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from marketplace.bodies import limit_bodies

LIMIT = 1000


def ask(path: str, pieces: list[bytes], **headers: str) -> tuple[int, bytes, int]:
    """Status and body of the answer, and how many bytes the application was given."""
    given = 0
    sent: list[Any] = []
    waiting = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal given
        more = True
        while more:
            message = await receive()
            given += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"taken"})

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "path": path, "headers": named}
    longer = {"/longer": 3 * LIMIT, "/api/.+/commit/.+": 3 * LIMIT}
    asyncio.run(limit_bodies(application, LIMIT, longer)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], sent[1]["body"], given


def test_what_fits_is_taken() -> None:
    assert ask("/x", [bytes(600), bytes(400)], content_length="1000") == (200, b"taken", 1000)
    assert ask("/longer", [bytes(3000)]) == (200, b"taken", 3000)
    assert ask("/api/models/a/b/commit/main", [bytes(3000)]) == (200, b"taken", 3000)


def test_an_announced_length_is_refused_unread() -> None:
    status, body, given = ask("/x", [bytes(1001)], content_length="1001")
    assert (status, given) == (413, 0)
    assert json.loads(body)["error"].startswith("This request has more than")


def test_a_body_without_a_length_is_counted() -> None:
    status, _body, given = ask("/x", [bytes(600), bytes(401), bytes(600)])
    assert (status, given) == (413, 600)
    assert ask("/longer", [bytes(3001)])[0] == 413
    assert ask("/longer/x", [bytes(3000)])[0] == 413


def test_the_site_has_the_limit(settings: Any) -> None:
    """What the server runs is the limited site; a part of an upload fits."""
    from marketplace.asgi import application
    from vectors import uploads

    assert settings.ARMORY_BODY_BYTES > uploads.LARGE_PART
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    for path, status in [("/uploads/x", 413), ("/uploads/form", 413)]:
        size = settings.ARMORY_FORM_BYTES + 1
        headers = [(b"content-length", str(size).encode())]
        scope = {"type": "http", "path": path, "method": "POST", "headers": headers}
        asyncio.run(application(scope, receive, send))
        assert sent.pop(0)["status"] == status
        sent.clear()
