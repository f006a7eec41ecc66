"""Likes by the protocol: giving and taking them, whom and what somebody likes."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.errors import HubError, bad_request
from marketplace.hub.facts import iso
from marketplace.hub.paging import page_of
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller, hub_view
from vectors.errors import _
from vectors.models import Like, Vector
from vectors.services import set_like

PAGE = 500


@hub_view("POST", "DELETE", scope="write")
def like(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``POST`` and ``DELETE /api/models/{id}/like``; twice is once."""
    row = getattr(find(repo_id, caller), "row", None)
    if not isinstance(row, Vector):
        raise bad_request(_("Only published vectors can be liked."))
    set_like(caller.user, row, request.method == "POST")
    return JsonResponse({})


@hub_view("GET", "HEAD")
def likers(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``GET /api/models/{id}/likers``, in pages."""
    row = getattr(find(repo_id, caller), "row", None)
    likes = Like.objects.none()
    if isinstance(row, Vector):
        likes = row.liked_by.select_related("user").order_by("-pk")
    return page_of(request, likes, PAGE, lambda each: person(each.user))


@hub_view("GET", "HEAD")
def liked(request: HttpRequest, caller: Caller, username: str) -> HttpResponse:
    """``GET /api/users/{name}/likes``: of the vectors that the caller may know of, in pages."""
    seen = Vector.objects.visible_to(caller.user)
    likes = named(username).likes.filter(vector__in=seen).select_related("vector").order_by("-pk")
    return page_of(
        request,
        likes,
        PAGE,
        lambda each: {
            "createdAt": iso(each.created),
            "repo": {"name": each.vector.repo_id, "type": "model"},
        },
    )


def named(username: str) -> Any:
    """The user of that name. Raises HubError 404."""
    user = get_user_model().objects.filter(username__iexact=username, is_active=True).first()
    if user is None:
        raise HubError(404, _("There is nobody called %(name)s here.") % {"name": username[:150]})
    return user


def person(user: Any) -> dict[str, Any]:
    """A user in the protocol's words."""
    name = user.get_username()
    return {
        "user": name,
        "fullname": user.get_full_name() or name,
        "avatarUrl": "",
        "type": "user",
    }
