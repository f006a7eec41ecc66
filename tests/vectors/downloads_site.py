"""Views for the tests of downloads: numbered bytes, a blob, a zip, and a memory of what was closed.

Served by uvicorn in a process of its own, as in `uvicorn tests.vectors.site:application`.
"""

import time
from collections.abc import Iterator

from django.http import FileResponse, HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path

from vectors.downloads import blob_response, ranged_response, stream_response
from vectors.models import Blob

PIECE = 1 << 20
closed: list[int] = []  # how many pieces each ended iterator had made
opened: list[tuple[int, int]] = []


def numbered(start: int, stop: int, piece: int = PIECE, pause: float = 0) -> Iterator[bytes]:
    """Bytes whose value follows from their place."""
    opened.append((start, stop))
    made = 0
    block = bytes(range(256)) * (piece // 256 + 1)
    try:
        while start < stop:
            length = min(piece, stop - start)
            shift = start % 256
            time.sleep(pause)
            yield block[shift : shift + length]
            start += length
            made += 1
    finally:
        closed.append(made)


def ranged(request: HttpRequest, size: int) -> HttpResponseBase:
    pause = float(request.GET.get("pause", 0))
    return ranged_response(
        request,
        size=size,
        etag="the-etag",
        content_type="application/octet-stream",
        file_name=request.GET.get("name", "model.safetensors"),
        open_range=lambda start, stop: numbered(start, stop, pause=pause),
    )


def broken(request: HttpRequest, size: int) -> HttpResponseBase:
    """Announces more than it has."""
    return stream_response(
        request,
        size=size,
        content_type="application/zip",
        file_name="broken.zip",
        pieces=numbered(0, size - 10),
    )


def whole(request: HttpRequest, size: int) -> HttpResponseBase:
    return stream_response(
        request,
        size=size,
        content_type="application/zip",
        file_name="全部.zip",
        pieces=numbered(0, size),
    )


def blob(request: HttpRequest, sha256: str, size: int) -> HttpResponseBase:
    return blob_response(
        request,
        Blob(sha256=sha256, size=size),
        "model.safetensors",
    )


def naive(request: HttpRequest) -> HttpResponseBase:
    """What the memory test has to catch."""
    return FileResponse(open(request.GET["path"], "rb"))


def history(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse({"opened": opened, "closed": closed})


urlpatterns = [
    path("t/ranged/<int:size>", ranged),
    path("t/broken/<int:size>", broken),
    path("t/whole/<int:size>", whole),
    path("t/blob/<str:sha256>/<int:size>", blob),
    path("t/naive", naive),
    path("t/history", history),
]
