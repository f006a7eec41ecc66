"""Pages around who is let in: the settings of one's own vector, and asking for another's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from vectors import sharing
from vectors.access import may_edit
from vectors.errors import Refusal, explain
from vectors.models import AccessRequest, Vector
from vectors.posting import number_of, post_only
from vectors.sharing_forms import GiveForm, SharingForm
from vectors.views import visible_vector


def own_vector(request: HttpRequest, namespace: str, name: str) -> Vector:
    """The vector at this address, if it is the visitor's; 404 otherwise."""
    vector = visible_vector(request, namespace, name)
    if not may_edit(request.user, vector):
        raise Http404
    return vector


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Who sees one's own vector, who may use it, who asks to."""
    vector = own_vector(request, namespace, name)
    if request.method != "POST":
        return _page(request, vector, give_form=GiveForm.asked(vector, request.GET))
    form = SharingForm(request.POST)
    if not form.is_valid():
        return _page(request, vector, form=form, status=422)
    sharing.set_visibility(vector, to=form.cleaned_data["visibility"])
    sharing.set_access(vector, to=form.cleaned_data["access"])
    messages.success(request, _("Saved."))
    return redirect("vector_settings", vector.namespace, vector.name)


@post_only("vector_settings", "namespace", "name")
@login_required
def give(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Let somebody in by name; one that is refused is kept in the page's address."""
    vector = own_vector(request, namespace, name)
    page = reverse("vector_settings", args=[vector.namespace, vector.name])
    form = GiveForm(vector, request.POST)
    if not form.is_valid():
        return redirect(f"{page}?{form.query()}#let-in")
    user = form.cleaned_data["username"]
    try:
        sharing.give(vector, user=user)
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    else:
        messages.success(request, _("%(user)s may use it now.") % {"user": user.get_username()})
    return redirect(page)


@post_only("vector_settings", "namespace", "name")
@login_required
def take_back(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Take a grant back."""
    vector = own_vector(request, namespace, name)
    grant = get_object_or_404(vector.grants, pk=number_of(request.POST.get("grant")))
    return _done(request, vector, lambda: sharing.take_back(grant))


ANSWERS: dict[str, Callable[[AccessRequest], None]] = {
    "accept": sharing.accept,
    "reject": sharing.reject,
}


@post_only("vector_settings", "namespace", "name")
@login_required
def answer(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Answer somebody who asked."""
    vector = own_vector(request, namespace, name)
    asked = get_object_or_404(vector.access_requests, pk=number_of(request.POST.get("request")))
    act = ANSWERS.get(request.POST.get("answer", ""))
    if act is None:
        raise Http404
    return _done(request, vector, lambda: act(asked))


@post_only("repo", "namespace", "name")
@login_required
def ask(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Ask the owner of a vector for access."""
    vector = visible_vector(request, namespace, name)
    try:
        asked = sharing.ask_access(vector, user=request.user, reason=request.POST.get("reason", ""))
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    else:
        if asked.state == AccessRequest.State.ACCEPTED:
            messages.success(request, _("You may use it now."))
    return redirect(vector)


def _done(request: HttpRequest, vector: Vector, act: Callable[[], None]) -> HttpResponse:
    """Do ``act`` and go back to the settings, with what it refused."""
    try:
        act()
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    return redirect("vector_settings", vector.namespace, vector.name)


def _page(request: HttpRequest, vector: Vector, *, status: int = 200, **forms: Any) -> HttpResponse:
    kept = {"visibility": vector.visibility, "access": vector.access}
    asked = vector.access_requests.select_related("user").order_by("created")
    context = {
        "vector": vector,
        "form": SharingForm(initial=kept),
        "give_form": GiveForm(vector),
        "waiting": asked.filter(state=AccessRequest.State.PENDING),
        "declined": asked.filter(state=AccessRequest.State.REJECTED),
        "grants": vector.grants.select_related("user").order_by("user__username"),
        "kept_origins": sharing.KEPT,
        **forms,
    }
    return render(request, "vectors/settings.html", context, status=status)
