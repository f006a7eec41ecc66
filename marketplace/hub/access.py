"""Settings of repositories, and who is let in: as ``HfApi`` asks for them.

All of it takes a token that may write: it changes, or tells of people who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.errors import HubError, bad_request
from marketplace.hub.info import iso
from marketplace.hub.repositories import GATED, ClaimRepository, VectorRepository, find
from marketplace.hub.requests import Caller, hub_view, json_body
from vectors import sharing
from vectors.errors import _
from vectors.models import Access, AccessRequest, Claim, Vector, Visibility

State = AccessRequest.State


@hub_view("PUT", scope="write")
def settings(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``PUT /api/models/{id}/settings``: who sees it, what it takes to read it."""
    row = _own(repo_id, caller)
    body = json_body(request)
    visibility, access = _visibility(body), _access(body, row)
    if visibility is None and access is None:
        raise bad_request(_("Say what to change: `private`, `visibility` or `gated`."))
    if visibility is not None:
        sharing.set_visibility(row, to=visibility)
    if access is not None:
        sharing.set_access(row, to=access)
    private = row.visibility == Visibility.PRIVATE
    return JsonResponse({"id": row.repo_id, "private": private, "gated": GATED[Access(row.access)]})


def _visibility(body: dict[str, Any]) -> str | None:
    if "visibility" in body:
        return str(body["visibility"])
    private = body.get("private")
    if private is None:
        return None
    return Visibility.PRIVATE if private else Visibility.PUBLIC


def _access(body: dict[str, Any], row: Vector | Claim) -> str | None:
    gated = body.get("gated")
    if gated is None:
        return None
    if gated is False:
        return Access.OPEN
    if gated == "manual" and row.access == Access.PAID:
        return None  # what clients are told of a vector for sale: writing it back changes nothing
    if gated not in (Access.AUTO, Access.MANUAL):
        raise bad_request(_("`gated` is false, auto or manual."))
    return str(gated)


@hub_view("GET", "HEAD", scope="write")
def requests(request: HttpRequest, caller: Caller, repo_id: str, state: str) -> HttpResponse:
    """``GET …/user-access-request/{pending,accepted,rejected}``. Nobody's address is told."""
    vector = _closed(repo_id, caller)
    rows = vector.access_requests.filter(state=state).select_related("user").order_by("-pk")
    return JsonResponse([_row(row) for row in rows], safe=False)


def _row(row: AccessRequest) -> dict[str, Any]:
    name = row.user.get_username()
    return {
        "requestId": f"{row.pk:024x}",
        "user": {"user": name, "fullname": row.user.get_full_name() or name, "email": None},
        "status": row.state,
        "timestamp": iso(row.created),
        "fields": {"reason": row.reason} if row.reason else None,
    }


ANSWERS: dict[str, Callable[[AccessRequest], None]] = {
    State.ACCEPTED: sharing.accept,
    State.REJECTED: sharing.reject,
    State.PENDING: sharing.reopen,
}


@hub_view("POST", scope="write")
def handle(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``POST …/user-access-request/handle``: accept, decline or reopen what somebody asked."""
    vector, body = _closed(repo_id, caller), json_body(request)
    act = ANSWERS.get(str(body.get("status", "")))
    if act is None:
        raise bad_request(_("`status` is accepted, rejected or pending."))
    row = _asked(vector, body)
    if row.state == body["status"]:
        raise HubError(
            404,
            _("The request of %(user)s is %(state)s already.")
            % {"user": row.user.get_username(), "state": row.get_state_display()},
        )
    act(row)
    response = JsonResponse(_row(row))
    if body.get("rejectionReason"):
        response.headers["X-HF-Warning"] = "access; The reason of a refusal is not passed on here."
    return response


def _asked(vector: Vector, body: dict[str, Any]) -> AccessRequest:
    rows = vector.access_requests.select_related("user", "vector__owner")
    if isinstance(body.get("user"), str):
        row = rows.filter(user=sharing.user_called(body["user"])).first()
    else:
        try:
            row = rows.filter(pk=int(str(body.get("requestId", "")), 16) % (1 << 63)).first()
        except ValueError:
            row = None
    if row is None:
        raise HubError(404, _("There is no such request."))
    return row


@hub_view("POST", scope="write")
def grant(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``POST …/user-access-request/grant``: let somebody in who has not asked."""
    vector, body = _closed(repo_id, caller), json_body(request)
    user = sharing.user_called(str(body.get("user", "")))
    sharing.give(vector, user=user)
    return JsonResponse(_row(vector.access_requests.get(user=user)))


@hub_view("POST", scope="write")
def ask(request: HttpRequest, caller: Caller, namespace: str, name: str) -> HttpResponse:
    """``POST /{id}/ask-access``: ask for a repository that is not open."""
    repository = find(f"{namespace}/{name}", caller)
    if not isinstance(repository, VectorRepository):
        raise bad_request(_("%(id)s needs no access.") % {"id": repository.id})
    is_form = request.content_type in ("multipart/form-data", "application/x-www-form-urlencoded")
    form = request.POST if is_form else json_body(request)
    row = sharing.ask_access(
        repository.row, user=caller.user, reason=str(form.get("reason", "") or "")
    )
    return JsonResponse({"status": row.state})


def _own(repo_id: str, caller: Caller) -> Vector | Claim:
    """The vector or the claim, if it is the caller's."""
    repository = find(repo_id, caller)
    repository.check_writable()
    assert isinstance(repository, VectorRepository | ClaimRepository)
    return repository.row


def _closed(repo_id: str, caller: Caller) -> Vector:
    """The caller's own vector, if there is anything to let people into."""
    row = _own(repo_id, caller)
    if isinstance(row, Claim):
        raise bad_request(_("Nothing is published in %(id)s yet.") % {"id": row.repo_id})
    if row.access == Access.OPEN and row.visibility == Visibility.PUBLIC:
        raise bad_request(
            _("%(id)s is open to everyone: there is no access to give.") % {"id": row.repo_id}
        )
    return row
