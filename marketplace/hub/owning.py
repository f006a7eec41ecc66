"""Repositories made, moved and deleted by clients; and cards checked before anything travels."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.bases import check_card
from marketplace.hub.errors import HubError, bad_request, repo_not_found
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller, endpoint, hub_view, json_body
from vectors import claims
from vectors.announced import Forbidden
from vectors.describe import check_name
from vectors.errors import Refusal, _
from vectors.models import Claim, Vector, Visibility


@hub_view("POST", scope="write")
def create(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``POST /api/repos/create``: claim a name. It is there already: 409, with its address."""
    body = json_body(request)
    _check_type(body)
    namespace, name = _id_in(body, caller)
    claims.check_own(caller.user, namespace)
    check_name(name)
    existing = _own(caller, name)
    if existing is not None:
        raise HubError(
            409,
            _("You already have %(id)s.") % {"id": existing.repo_id},
            url=f"{endpoint(request)}/{existing.repo_id}",
        )
    claim = claims.claim(owner=caller.user, name=name, visibility=_visibility(body))
    url = f"{endpoint(request)}/{claim.repo_id}"
    return JsonResponse({"url": url, "name": claim.repo_id, "id": claim.repo_id})


@hub_view("DELETE", scope="write")
def delete(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``DELETE /api/repos/delete``."""
    body = json_body(request)
    _check_type(body)
    claims.delete(_writable("/".join(_id_in(body, caller)), caller))
    return JsonResponse({})


@hub_view("POST", scope="write")
def move(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``POST /api/repos/move``: another name, within one's own namespace."""
    body = json_body(request)
    _check_type(body)
    goal, _slash, name = str(body.get("toRepo", "")).partition("/")
    repository = _writable(str(body.get("fromRepo", "")), caller)
    if goal.lower() != repository.namespace.lower():
        raise Forbidden(
            _("A repository stays with its owner: %(id)s can only move within %(own)s/."),
            id=repository.repo_id,
            own=repository.namespace,
        )
    claims.rename(repository, name=name)
    return JsonResponse({"url": f"{endpoint(request)}/{repository.repo_id}"})


@hub_view("POST")
def validate_yaml(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``POST /api/validate-yaml``: a card whose base model is not here is refused before anything
    travels."""
    content = json_body(request).get("content")
    if not isinstance(content, str):
        raise bad_request(_("`content` must be the text of a README.md."))
    errors, warnings = check_card(content, caller)
    answer = {
        "errors": [{"message": sentence} for sentence in errors],
        "warnings": [{"message": sentence} for sentence in warnings],
    }
    if errors:
        raise bad_request(" ".join(errors), **answer)
    return JsonResponse(answer)


def _check_type(body: dict[str, Any]) -> None:
    kind = body.get("type") or "model"
    if kind != "model":
        raise bad_request(
            _("There are only models here, no repositories of type %(type)s.")
            % {"type": str(kind)[:40]}
        )


def _id_in(body: dict[str, Any], caller: Caller) -> tuple[str, str]:
    """Namespace and name; a bare name is one's own."""
    name, namespace = body.get("name"), body.get("organization") or ""
    if not isinstance(name, str) or not isinstance(namespace, str):
        raise bad_request(_("`name` must be a text."))
    if "/" in name:
        namespace, _slash, name = name.partition("/")
    return namespace or caller.user.get_username(), name


def _visibility(body: dict[str, Any]) -> str:
    wanted = body.get("visibility") or ("private" if body.get("private") else "public")
    if wanted not in Visibility.values:
        raise Refusal(_("A repository is public or private, not “%(to)s”."), to=str(wanted)[:40])
    return str(wanted)


def _own(caller: Caller, name: str) -> Vector | Claim | None:
    key = {"namespace__iexact": caller.user.get_username(), "name__iexact": name}
    vector = Vector.objects.filter(**key, owner=caller.user).first()
    return vector or Claim.objects.filter(**key, owner=caller.user).first()


def _writable(repo_id: str, caller: Caller) -> Vector | Claim:
    """The vector or claim of this id, if the caller may write to it."""
    repository = find(repo_id, caller)
    repository.check_writable()
    return row_of(repository, caller)


def row_of(repository: Any, caller: Caller) -> Vector | Claim:
    """The row behind a repository that may be written to."""
    row = getattr(repository, "row", None)
    if not isinstance(row, Vector | Claim):
        raise repo_not_found(repository.id, signed_in=caller.signed_in)
    return row
