"""Uploads over HTTP: JSON for scripts and upload.js, an ordinary form without JavaScript.

A draft is described by
``{"draft": 7, "url": "/drafts/7", "state": "uploading", "uploads": [{"id", "path", "size",
"part_size", "parts": [{"number", "url", "size"}], "received": [1, 2], "complete": url}]}``;
``parts`` lists those that have not arrived. Errors are ``{"error": sentence}``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST

from vectors import uploads
from vectors.errors import Refusal, _, explain
from vectors.models import Upload, Vector, Version
from vectors.posting import post_only
from vectors.storage.base import missing_upload

View = Callable[..., HttpResponse]

STATUS: dict[type[Refusal], int] = {
    uploads.Forbidden: 403,
    uploads.NotFound: 404,
    uploads.Conflict: 409,
    uploads.TooLarge: 413,
}


def answers_json(view: View) -> View:
    """A Refusal becomes ``{"error": sentence}`` with its status; so does what is not found."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except Refusal as refusal:
            return _error(explain(refusal), STATUS.get(type(refusal), 400))
        except Http404:
            return _error(gettext("There is no such upload, or it belongs to someone else."), 404)

    return wrapped


def signed_in(view: View) -> View:
    """Like login_required, with a sentence in place of a redirect that a script would follow."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return _error(gettext("Sign in first, then upload."), 403)
        return view(request, *args, **kwargs)

    return wrapped


@require_POST
@signed_in
@answers_json
def create_draft(request: HttpRequest) -> HttpResponse:
    """POST /uploads/: announce files, learn where their parts go."""
    data = _json(request)
    version = uploads.start_draft(
        owner=request.user,
        files=[_file(entry) for entry in _list(data, "files")],
        vector=_own_vector(request, data.get("vector") or ""),
    )
    return JsonResponse(describe(version), status=201)


@require_http_methods(["GET", "DELETE"])
@signed_in
@answers_json
def show_draft(request: HttpRequest, pk: int) -> HttpResponse:
    """GET /uploads/drafts/<id>: what is still to be sent, with fresh URLs. DELETE discards it."""
    version = get_object_or_404(Version, pk=pk, owner=request.user)
    if request.method == "DELETE":
        uploads.discard(version)
        return HttpResponse(status=204)
    uploads.renew(version)
    return JsonResponse(describe(version))


@csrf_exempt
@require_http_methods(["PUT"])
@answers_json
def receive_part(request: HttpRequest, pk: uuid.UUID, number: int) -> HttpResponse:
    """PUT /uploads/<uuid>/parts/<n>?signature=…: the signature stands for the session."""
    uploads.check_signature(pk, number, request.GET.get("signature", ""))
    upload = Upload.objects.filter(pk=pk).first()
    if upload is None:
        raise missing_upload()
    length = request.META.get("CONTENT_LENGTH", "")
    part = uploads.receive_part(
        upload=upload,
        number=number,
        stream=request,
        announced=int(length) if length.isdecimal() else None,
        sha256=request.headers.get("X-Part-SHA256", ""),
    )
    return HttpResponse(headers={"ETag": f'"{part.etag}"'})


@require_POST
@signed_in
@answers_json
def complete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """POST /uploads/<uuid>/complete: ``{"parts": [{"number", "etag"}]}``; the list may be short."""
    upload = get_object_or_404(Upload, pk=pk, owner=request.user)
    upload = uploads.complete(upload, [_part(entry) for entry in _list(_json(request), "parts")])
    version = upload.version
    return JsonResponse(
        {
            "state": upload.state,
            "draft": version and {"url": _draft_url(version), "state": version.state},
        }
    )


@post_only("upload")
@login_required
def upload_form(request: HttpRequest) -> HttpResponse:
    """POST /uploads/form: all files in one ordinary form, for browsers without JavaScript."""
    sent = [file for _name, files in request.FILES.lists() for file in files if file.size]
    version = None
    try:
        vector = _own_vector(request, request.POST.get("vector", ""))
        version = uploads.start_draft(
            owner=request.user, files=[(file.name, file.size) for file in sent], vector=vector
        )
        for upload in version.uploads.all():
            _take(upload, next(file for file in sent if file.name == upload.path))
    except Refusal as refusal:
        if version is not None:
            uploads.discard(version)
        messages.error(request, explain(refusal))
        return redirect("upload")
    return redirect(_draft_url(version))


def _take(upload: Upload, file: UploadedFile) -> None:
    file.seek(0)
    for number in range(1, upload.part_count + 1):
        uploads.receive_part(
            upload=upload, number=number, stream=_Slice(file, upload.part_length(number))
        )
    uploads.complete(upload)


class _Slice:
    """The next ``length`` bytes of a file, and then its end."""

    def __init__(self, file: UploadedFile, length: int) -> None:
        self._file, self._left = file, length

    def read(self, size: int, /) -> bytes:
        piece: bytes = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece


def describe(version: Version) -> dict[str, Any]:
    """A draft as JSON: its page, its uploads, and where the missing parts go."""
    return {
        "draft": version.pk,
        "url": _draft_url(version),
        "state": version.state,
        "uploads": [_describe_upload(upload) for upload in version.uploads.order_by("path")],
    }


def _describe_upload(upload: Upload) -> dict[str, Any]:
    received = uploads.received_parts(upload)
    missing = set(range(1, upload.part_count + 1)) - set(received)
    urls = uploads.part_urls(upload) if missing else []
    return {
        "id": str(upload.pk),
        "path": upload.path,
        "size": upload.size,
        "state": upload.state,
        "part_size": upload.part_size,
        "parts": [url._asdict() for url in urls if url.number in missing],
        "received": received,
        "complete": reverse("upload_complete", args=[upload.pk]),
    }


def _draft_url(version: Version) -> str:
    return reverse("draft", args=[version.pk])


def _own_vector(request: HttpRequest, repo_id: str) -> Vector | None:
    """The reader's own vector called ``owner/name``, None when no name is given."""
    if not repo_id:
        return None
    vector = Vector.objects.called(str(repo_id)).filter(owner_id=request.user.pk).first()
    if vector is None:
        raise uploads.NotFound(_("You have no vector %(name)s."), name=str(repo_id)[:200])
    return vector


def _json(request: HttpRequest) -> dict[str, Any]:
    try:
        data = json.loads(request.body or b"{}")
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Refusal(_("The request is not a JSON object."))
    return data


def _list(data: dict[str, Any], name: str) -> list[Any]:
    entries = data.get(name, [])
    if not isinstance(entries, list):
        raise Refusal(_("`%(name)s` must be a list."), name=name)
    return entries


def _file(entry: Any) -> tuple[str, int, str]:
    if isinstance(entry, dict):
        path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256") or ""
        if isinstance(path, str) and type(size) is int and isinstance(sha256, str):
            return path, size, sha256
    raise Refusal(_("Each file needs a `path` and its `size` in bytes; `sha256` is optional."))


def _part(entry: Any) -> tuple[int, str]:
    """{"number", "etag"}, or {"partNumber", "etag"} as Git LFS has it."""
    if isinstance(entry, dict):
        number, etag = entry.get("number", entry.get("partNumber")), entry.get("etag") or ""
        if type(number) is int and isinstance(etag, str):
            return number, etag.strip('"')
    raise Refusal(_("Each part needs a `number`; `etag` is what came back when it was sent."))


def _error(sentence: str, status: int) -> JsonResponse:
    return JsonResponse({"error": sentence}, status=status)
