"""Branches and tags: names that an owner gives to published versions."""

from __future__ import annotations

import re

from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.errors import bad_request, forbidden, revision_not_found
from marketplace.hub.repositories import MAIN, Repository, at, find
from marketplace.hub.requests import Caller, hub_view, json_body
from vectors.announced import Conflict
from vectors.errors import _
from vectors.models import Ref, Vector, Version

MAX_REFS = 200  # of a vector
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,198}")
_TAKEN = re.compile(r"v\d+|main|head|refs/.*|[0-9a-f]{40}", re.I)


@hub_view("POST", "DELETE", scope="write")
def branch(request: HttpRequest, caller: Caller, repo_id: str, name: str) -> HttpResponse:
    """``POST`` or ``DELETE /api/models/{id}/branch/{branch}``."""
    repository = find(repo_id, caller)
    repository.check_writable()
    if request.method == "DELETE":
        return _forget(repository, Ref.Kind.BRANCH, name)
    start = json_body(request).get("startingPoint") or MAIN
    return _name(repository, Ref.Kind.BRANCH, name, str(start))


@hub_view("POST", "DELETE", scope="write")
def tag(request: HttpRequest, caller: Caller, repo_id: str, name: str) -> HttpResponse:
    """``POST /api/models/{id}/tag/{rev}`` with the tag in the body; ``DELETE …/tag/{tag}``."""
    repository = find(repo_id, caller)
    repository.check_writable()
    if request.method == "DELETE":
        return _forget(repository, Ref.Kind.TAG, name)
    return _name(repository, Ref.Kind.TAG, str(json_body(request).get("tag") or ""), name)


def _name(repository: Repository, kind: str, name: str, revision: str) -> HttpResponse:
    version = _version_at(repository, revision)
    if name in repository.names():
        raise Conflict(_("%(id)s has a “%(name)s” already."), id=repository.id, name=name)
    if not _NAME.fullmatch(name) or _TAKEN.fullmatch(name) or ".." in name:
        raise bad_request(
            _("“%(name)s” is not a usable name: letters, digits and . _ - + /, and not `v1`.")
            % {"name": name[:200]}
        )
    assert version.vector is not None
    if version.vector.refs.count() >= MAX_REFS:
        raise Conflict(_("%(id)s has %(count)d names, the most."), id=repository.id, count=MAX_REFS)
    try:
        Ref.objects.create(vector=version.vector, kind=kind, name=name, version=version)
    except IntegrityError as error:  # another client at the same moment
        raise Conflict(
            _("%(id)s has a “%(name)s” already."), id=repository.id, name=name
        ) from error
    return JsonResponse({}, status=201)


def _version_at(repository: Repository, revision: str) -> Version:
    version = at(repository, revision).source
    if not isinstance(version, Version) or version.is_draft:
        raise bad_request(
            _("Branches and tags name published versions, and %(revision)s of %(id)s is none yet.")
            % {"revision": revision[:200], "id": repository.id}
        )
    return version


def _forget(repository: Repository, kind: str, name: str) -> HttpResponse:
    if _TAKEN.fullmatch(name):
        raise forbidden(_("“%(name)s” stays: it is not yours to delete.") % {"name": name[:200]})
    row = getattr(repository, "row", None)
    refs = Ref.objects.filter(kind=kind, name=name)
    if not isinstance(row, Vector) or not refs.filter(vector=row).delete()[0]:
        raise revision_not_found(repository.id, name)
    return JsonResponse({})
