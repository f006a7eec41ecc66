"""Small questions of the clients: people, tags, one's own storage, and what is not offered here."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.errors import HubError
from marketplace.hub.facts import LIBRARY, iso
from marketplace.hub.likes import named, person
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller, hub_view
from vectors.errors import _
from vectors.models import Claim, Foundation, Vector


@hub_view("GET", "HEAD")
def user_overview(request: HttpRequest, caller: Caller, username: str) -> HttpResponse:
    """``GET /api/users/{name}/overview``."""
    user = named(username)
    vectors = Vector.objects.visible_to(caller.user).filter(owner=user)
    liked = user.likes.filter(vector__in=Vector.objects.visible_to(caller.user))
    return JsonResponse(
        {
            **person(user),
            "createdAt": iso(user.date_joined),
            "numModels": vectors.count(),
            "numLikes": liked.count(),
            "numDatasets": 0,
            "numSpaces": 0,
            "orgs": [],
        }
    )


@hub_view("GET", "HEAD")
def organization_overview(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """``GET /api/organizations/{name}/overview``: whoever foundations are named after."""
    rows = Foundation.objects.filter(namespace__iexact=name)
    first = rows.only("namespace", "name").first()
    if first is None:
        raise HubError(404, _("There is nobody called %(name)s here.") % {"name": name[:150]})
    return JsonResponse(
        {
            "name": first.namespace,
            "fullname": first.namespace,
            "avatarUrl": "",
            "type": "org",
            "numModels": rows.count(),
            "numDatasets": 0,
            "numSpaces": 0,
        }
    )


@hub_view("GET", "HEAD", scope="read")
def own_repositories(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``GET /api/settings/repositories``: what the caller has here, and how much room it takes."""
    vectors = Vector.objects.filter(owner=caller.user, current__isnull=False)
    rows: list[dict[str, Any]] = [
        _storage(row, row.updated, row.current.nbytes if row.current else 0)
        for row in vectors.select_related("current").only(
            "namespace", "name", "visibility", "updated", "current__nbytes"
        )
    ]
    rows += [_storage(row, row.created, 0) for row in Claim.objects.filter(owner=caller.user)]
    total = sum(row["storage"] for row in rows) or 1
    rows.sort(key=lambda row: (-row["storage"], row["id"]))
    shares = [{**row, "storagePercent": 100 * row["storage"] / total} for row in rows]
    return JsonResponse(shares, safe=False)


def _storage(row: Vector | Claim, moment: Any, nbytes: int) -> dict[str, Any]:
    return {
        "id": row.repo_id,
        "type": "model",
        "updatedAt": iso(moment),
        "visibility": row.visibility,
        "storage": nbytes,
    }


@hub_view("GET", "HEAD")
def tags_by_type(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``GET /api/models-tags-by-type``: the tags that narrow the list, by what they say."""
    vectors, foundations = Vector.objects.published(), Foundation.objects.all()

    def values(column: str) -> set[str]:
        columns = [
            rows.order_by().values_list(column).distinct() for rows in (vectors, foundations)
        ]
        return {value for (value,) in columns[0].union(columns[1]) if value}

    languages = {code for codes in values("languages") for code in codes.split()}
    found = {
        "pipeline_tag": values("pipeline_tag"),
        "library": {LIBRARY, "peft"},
        "license": {f"license:{name}" for name in values("license")},
        "language": languages,
    }
    return JsonResponse(
        {
            kind: [
                {"id": tag, "label": tag.removeprefix("license:"), "type": kind}
                for tag in sorted(tags)
            ]
            for kind, tags in found.items()
        }
    )


@hub_view("GET", "HEAD")
def discussions(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``GET /api/models/{id}/discussions``: there are none."""
    find(repo_id, caller)
    return JsonResponse({"discussions": [], "count": 0, "start": 0})


@hub_view("GET", "HEAD")
def nothing(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Lists of what there is none of here: collections, data sets, Spaces."""
    return JsonResponse([], safe=False)


@hub_view("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
def absent(request: HttpRequest, caller: Caller, **_where: object) -> HttpResponse:
    """What is not offered here: discussions, collections, registries of other programs."""
    raise HubError(404, _("There is nothing of the kind here."))
