"""Recipes over HTTP: written in any notation, answered with the repository they are."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_safe

from marketplace.hub.equipped import EquippedRepository
from marketplace.hub.errors import HubError, bad_request
from marketplace.hub.requests import Caller, endpoint, hub_view, json_body
from marketplace.hub.spelling import row_of_id
from merging.engine.errors import RecipeError
from merging.models import EquippedModel
from merging.services import equip_expression, equip_json, equip_yaml
from merging.spelling import id_of, revision_of
from vectors.errors import _
from vectors.tensorfile.errors import Problem

NOTATIONS = {"expression": equip_expression, "recipe": equip_json, "yaml": equip_yaml}


@hub_view("POST")
def recipes(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``POST /api/recipes``: the recipe that the body says, 201 when it is new and 200 when not.

    ``{"expression": "owner/a + 0.5*owner/b", "on": "org/model"}``, ``{"recipe": {…}}`` (JSON with
    digests or names) or ``{"yaml": "…"}`` (mergekit's). For a token's user, else for nobody known:
    a browser's session counts for nothing where something is written.
    """
    known = caller if caller.token is not None else Caller(AnonymousUser())
    body = json_body(request)
    notation, text = _said(body)
    on = body.get("on") or ""
    if not isinstance(on, str):
        raise bad_request(_("`on` is the id of the model that the vectors are put on."))
    started = timezone.now()
    try:
        row = NOTATIONS[notation](text, on=on, user=known.user)
    except Problem as problem:
        place = problem.params.get("marked")
        raise bad_request(problem, **({"place": place} if place else {})) from problem
    answer = _answer(request, row, known)
    return JsonResponse(answer, status=201 if row.created >= started else 200)


@require_safe
def spelled(request: HttpRequest, name: str) -> HttpResponse:
    """``/equip/{name}`` in a browser: the page of the recipe that the address spells."""
    try:
        return redirect(row_of_id(name, Caller(request.user)))
    except HubError as error:
        raise Http404(error.message) from error


def _said(body: dict[str, Any]) -> tuple[str, Any]:
    given = [notation for notation in NOTATIONS if body.get(notation)]
    if len(given) != 1:
        raise bad_request(
            _("Say the recipe in one way: as `expression`, as `recipe` (JSON) or as `yaml`.")
        )
    text = body[given[0]]
    if not isinstance(text, str) and given[0] != "recipe":
        raise bad_request(RecipeError(_("`%(key)s` is a text."), key=given[0]))
    return given[0], text


def _answer(request: HttpRequest, row: EquippedModel, caller: Caller) -> dict[str, Any]:
    repository = EquippedRepository(row, caller)
    return {
        "repo_id": row.repo_id,
        "sha": repository.head().commit,
        "url": f"{endpoint(request)}{row.get_absolute_url()}",
        "hash": row.hash,
        "spelled": id_of(row),
        "revision": revision_of(row),
        "nbytes": row.nbytes,
        "report": row.report,
    }
