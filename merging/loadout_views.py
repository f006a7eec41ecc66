"""The loadout: one screen to pick vectors, see whether they go together, and equip."""

from __future__ import annotations

from dataclasses import replace

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from merging.engine.errors import RecipeError, _
from merging.inventory import words_of
from merging.loadout import Loadout, read_formula
from merging.loadout_context import (
    advised,
    context_of,
    inventory_context,
    result_of,
    with_target,
)
from merging.models import SavedLoadout
from merging.saving import save_loadout
from merging.services import count_equip, equip_expression
from merging.views import visit_of
from vectors.errors import explain
from vectors.posting import post_only
from vectors.tensorfile.errors import Problem


@require_http_methods(["GET", "HEAD", "POST"])
def loadout(request: HttpRequest) -> HttpResponse:
    """The screen (GET), and every change made without JavaScript (POST), which leads back to it."""
    if request.method == "POST":
        return _change(request)
    return _page(request, Loadout.from_query(request.GET))


@require_safe
def loadout_forecast(request: HttpRequest) -> HttpResponse:
    """Formula and forecast of the query's loadout: what a script puts in place of the old ones."""
    state = with_target(Loadout.from_query(request.GET), request.user)
    return render(request, "merging/_loadout_result.html", result_of(state, request.user))


@require_safe
def loadout_inventory(request: HttpRequest) -> HttpResponse:
    """What fits the query's loadout and has its words, for a script to put in place."""
    state = with_target(Loadout.from_query(request.GET), request.user)
    context = inventory_context(state, request.user, words_of(request.GET))
    return render(request, "merging/_inventory_list.html", context)


@require_safe
def saved_loadout(request: HttpRequest, slug: str) -> HttpResponse:
    """A loadout somebody saved; changing it makes another one, this one stays."""
    row = get_object_or_404(SavedLoadout.objects.select_related("owner"), slug=slug)
    state = replace(Loadout.from_query(QueryDict(row.query)), name=row.name)
    return _page(request, state, saved=row)


@post_only("saved_loadout", "slug")
@login_required
def delete_loadout(request: HttpRequest, slug: str) -> HttpResponse:
    """Forget one of one's own saved loadouts."""
    if not SavedLoadout.objects.filter(slug=slug, owner=request.user.pk).delete()[0]:
        raise Http404
    return redirect("profile", request.user.get_username())


def _page(
    request: HttpRequest, state: Loadout, *, saved: SavedLoadout | None = None
) -> HttpResponse:
    state = with_target(state, request.user)
    context = {**context_of(request, state), "saved": saved}
    return render(request, "merging/loadout.html", context)


def _change(request: HttpRequest) -> HttpResponse:
    """Do what the pressed button says. Nothing that was typed is lost, whatever comes of it."""
    state = with_target(Loadout.from_query(request.POST), request.user)
    action, _separator, value = request.POST.get("do", "").partition(":")
    index = int(value) if value.isdecimal() and len(value) < 4 else -1
    try:
        if action == "equip":
            return _equip(request, state)
        if action == "save":
            return _save(request, state)
        if action == "read":
            text = request.POST.get("formula", "").strip()
            state = with_target(read_formula(text, name=state.name), request.user)
    except Problem as problem:
        messages.error(request, explain(problem))
    if action == "add":
        state = state.with_vector(value)
    elif action == "remove" and 0 <= index < len(state.slots):
        state = state.without(index)
    elif action == "negate" and 0 <= index < len(state.slots):
        state = state.negated(index)
    elif action == "advice":
        state = advised(state, request.user)
    elif action == "slots":
        state = replace(state, typed="")
    words = words_of(request.POST)
    # Return in the field of words presses the form's first button, which is "update".
    searched = action == "search" or (
        action == "update" and words != request.POST.get("searched", "")
    )
    return redirect(_address(state, words) + ("#inventory" if searched else ""))


def _equip(request: HttpRequest, state: Loadout) -> HttpResponse:
    formula = state.formula()
    if not formula:
        raise RecipeError(_("Nothing is in the loadout yet: choose at least one vector."))
    row = equip_expression(formula, on=state.on, user=request.user)
    count_equip(row, user=request.user, visit=visit_of(request))
    return redirect(f"{row.get_absolute_url()}?start=1")


def _save(request: HttpRequest, state: Loadout) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect(f"{reverse('account_login')}?{_next(_address(state))}")
    row = save_loadout(user=request.user, name=state.name, query=state.query())
    return redirect(row)


def _address(state: Loadout, words: str = "") -> str:
    searched = QueryDict(mutable=True)
    if words:
        searched["q"] = words
    query = "&".join(filter(None, (state.query(), searched.urlencode())))
    return reverse("loadout") + (f"?{query}" if query else "")


def _next(address: str) -> str:
    query = QueryDict(mutable=True)
    query["next"] = address
    return query.urlencode()
