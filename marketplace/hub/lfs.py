"""Git LFS: files sent by themselves, in one request or in parts, and checked by their SHA-256.

The addresses that take bytes carry their own signature, because clients send no Authorization to
them. What has arrived belongs to whoever sent it (``vectors.possession``) until a commit names it.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from django.core import signing
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from marketplace.hub.errors import bad_request
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller, endpoint, hub_view, json_body
from vectors import uploads
from vectors.announced import MAX_FILE, Conflict, Forbidden, NotFound
from vectors.dropping import drop_uploads
from vectors.errors import Refusal, _
from vectors.models import Upload
from vectors.possession import possessed
from vectors.storage.base import missing_upload

CONTENT_TYPE = "application/vnd.git-lfs+json"
MAX_OBJECTS = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_signer = signing.TimestampSigner(salt="marketplace.hub.lfs.complete")


@hub_view("POST", scope="write")
def batch(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``POST /{id}.git/info/lfs/objects/batch``: where each object goes; those that the caller has
    here already go nowhere."""
    find(repo_id, caller).check_writable()
    body = json_body(request)
    objects = body.get("objects")
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise bad_request(_("Only uploads named by SHA-256 are taken here."))
    if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
        raise bad_request(_("`objects` must be a list of at most %d objects.") % MAX_OBJECTS)
    wanted = dict(_object(entry) for entry in objects)
    missing = {oid: size for oid, size in wanted.items() if possessed(caller.user, oid) is None}
    transfers = body.get("transfers")
    parts = isinstance(transfers, list) and "multipart" in transfers
    opened = _open(caller, missing)
    rows = [
        _instructions(request, oid, size, opened.get(oid), parts) for oid, size in wanted.items()
    ]
    several = any("chunk_size" in _header_of(row) for row in rows)
    answer = {"transfer": "multipart" if several else "basic", "objects": rows}
    return JsonResponse(answer, content_type=CONTENT_TYPE)


@hub_view("POST")
def complete(request: HttpRequest, caller: Caller, pk: uuid.UUID) -> HttpResponse:
    """``POST /uploads/{uuid}/lfs?signature=…``: all parts were sent; join them."""
    _check_signature(pk, request.GET.get("signature", ""))
    upload = Upload.objects.filter(pk=pk).first()
    if upload is None:
        raise missing_upload()
    parts = json_body(request).get("parts")
    uploads.complete(upload, [_part(entry) for entry in parts] if isinstance(parts, list) else [])
    return JsonResponse({})


@hub_view("POST", scope="write")
def verify(request: HttpRequest, caller: Caller, pk: uuid.UUID) -> HttpResponse:
    """``POST /uploads/{uuid}/verify``: is what arrived what was announced?"""
    upload = Upload.objects.filter(pk=pk, owner=caller.user).first()
    if upload is None:
        raise NotFound(missing_upload().template)
    oid, size = _object(json_body(request))
    if (oid, size) != (upload.expected_sha256, upload.size):
        raise Conflict(_("This upload is of another object."))
    uploads.complete(upload)
    try:
        uploads.seal(upload)
    except Refusal:
        drop_uploads(Upload.objects.filter(pk=pk))  # damaged: the next try begins anew
        raise
    return JsonResponse({})


def _open(caller: Caller, missing: dict[str, int]) -> dict[str, Upload]:
    if not missing:
        return {}
    files = [(f"lfs/{oid}", size, oid) for oid, size in missing.items()]
    opened = uploads.open_uploads(owner=caller.user, files=files)
    return {upload.expected_sha256: upload for upload in opened}


def _instructions(
    request: HttpRequest, oid: str, size: int, upload: Upload | None, parts: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"oid": oid, "size": size}
    if upload is None:
        return row
    site = endpoint(request)
    urls = [_absolute(site, part.url) for part in uploads.part_urls(upload)]
    if len(urls) == 1:
        send: dict[str, Any] = {"href": urls[0], "header": {}}
    elif parts:
        numbered = {f"{number:05d}": url for number, url in enumerate(urls, 1)}
        address = reverse("lfs_complete", args=[upload.pk])
        send = {
            "href": f"{site}{address}?signature={_sign(upload.pk)}",
            "header": {"chunk_size": str(upload.part_size), **numbered},
        }
    else:
        drop_uploads(Upload.objects.filter(pk=upload.pk))
        sentence = _("This object is sent in parts, which your client does not know.")
        return {**row, "error": {"code": 422, "message": sentence}}
    check = {"href": f"{site}{reverse('lfs_verify', args=[upload.pk])}", "header": {}}
    return {**row, "actions": {"upload": send, "verify": check}}


def _header_of(row: dict[str, Any]) -> dict[str, str]:
    header: dict[str, str] = row.get("actions", {}).get("upload", {}).get("header", {})
    return header


def _absolute(site: str, url: str) -> str:
    return f"{site}{url}" if url.startswith("/") else url


def _object(entry: Any) -> tuple[str, int]:
    if isinstance(entry, dict):
        oid, size = entry.get("oid"), entry.get("size")
        if isinstance(oid, str) and _SHA256.fullmatch(oid) and type(size) is int:
            if 0 < size <= MAX_FILE:
                return oid, size
            raise bad_request(
                _("An object has 1 byte to %(limit)d GB, not %(size)d bytes.")
                % {"limit": MAX_FILE // 10**9, "size": size}
            )
    raise bad_request(_("Each object needs its `oid`, a SHA-256, and its `size`."))


def _part(entry: Any) -> tuple[int, str]:
    if isinstance(entry, dict):
        number, etag = entry.get("partNumber"), entry.get("etag") or ""
        if type(number) is int and isinstance(etag, str):
            return number, etag.strip('"')
    raise bad_request(_("Each part needs its `partNumber` and its `etag`."))


def _sign(pk: uuid.UUID) -> str:
    return _signer.sign(str(pk)).removeprefix(f"{pk}:")


def _check_signature(pk: uuid.UUID, signature: str) -> None:
    try:
        _signer.unsign(f"{pk}:{signature}", max_age=uploads.URL_LIFETIME)
    except signing.BadSignature as error:
        raise Forbidden(_("This upload address is not valid any more. Push again.")) from error
