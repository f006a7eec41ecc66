"""The upload wizard after the bytes have arrived: foundation, inspection, publication."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.http import require_safe

from vectors import services
from vectors.cards import read_card
from vectors.cards import render as render_card
from vectors.describe import fields_from_card
from vectors.errors import Refusal, explain, explain_row
from vectors.forms import FoundationForm, PublishForm
from vectors.models import Foundation, Vector, Version
from vectors.posting import post_only
from vectors.uploads import discard
from vectors.views import explained_verdict

STEPS = ("files", "foundation", "inspection", "publish")


@login_required
@require_safe
def upload(request: HttpRequest) -> HttpResponse:
    """Step 1: choose files; unfinished uploads are listed to go on with."""
    vector = None
    if request.GET.get("vector"):
        own = Vector.objects.filter(owner_id=request.user.pk)
        vector = own.called(request.GET["vector"]).first()
    context = {
        "vector": vector,
        "drafts": Version.objects.drafts_of(request.user).select_related(
            "foundation", "vector", "claim"
        ),
        "foundations": Foundation.objects.with_counts().defer("manifest", "card", "card_html"),
    }
    return render(request, "vectors/upload.html", context)


def _draft(request: HttpRequest, pk: int) -> Version:
    versions = Version.objects.select_related(
        "foundation", "vector__foundation", "claim", "inspection"
    )
    return get_object_or_404(versions, pk=pk, owner=request.user)


@login_required
@require_safe
def draft(request: HttpRequest, pk: int) -> HttpResponse:
    """Where a draft is: its foundation to confirm, its inspection, its refusal, its publication."""
    version = _draft(request, pk)
    if not version.is_draft and version.vector:
        return redirect(version.vector)
    services.prepare_draft(version)
    return render(request, "vectors/draft.html", draft_context(version))


def draft_context(version: Version) -> dict[str, Any]:
    """What the draft page shows in each state."""
    context: dict[str, Any] = {
        "version": version,
        "step": step_of(version),
        "steps": STEPS,
        "job": getattr(version, "inspection", None),
        "uploads": version.uploads.order_by("path"),
    }
    if version.state == Version.State.RECEIVED:
        context["form"] = FoundationForm(initial={"foundation": version.foundation})
    elif version.state == Version.State.REFUSED:
        context["refusal"] = refusal_of(version)
    elif version.state == Version.State.READY:
        context |= {"verdict": explained_verdict(version), "form": _publish_form(version)}
    return context


def refusal_of(version: Version) -> str:
    """Why it was refused, in the reader's language; empty when it was not."""
    if not version.refusal:
        return ""
    return explain_row(version.refusal)


def pushed_rows(user: Any) -> list[dict[str, Any]]:
    """What ``user`` pushed and what did not become a version (yet), for their page."""
    pushed = Version.objects.drafts_of(user).exclude(commit="").select_related("vector", "claim")
    return [{"version": version, "refusal": refusal_of(version)} for version in pushed]


def _publish_form(version: Version, data: QueryDict | None = None) -> PublishForm:
    """The form of the last step, as it was last filled in; else from the card as far as that
    goes."""
    fields = fields_from_card(version.card)
    return PublishForm(
        data or version.draft.get("typed"),
        namespace=version.owner.get_username(),
        existing=version.vector is not None,
        initial={
            **fields,
            "name": slugify(fields["title"]),
            "languages": " ".join(fields["languages"]),
            "tags": " ".join(fields["tags"]),
            "card": version.card,
        },
    )


def step_of(version: Version) -> str:
    """The wizard's step for a draft's state."""
    return {
        Version.State.UPLOADING: "files",
        Version.State.RECEIVED: "foundation",
        Version.State.READY: "publish",
    }.get(Version.State(version.state), "inspection")


@login_required
@require_safe
def draft_progress(request: HttpRequest, pk: int) -> HttpResponse:
    """The moving part of the draft page, polled; asks for a reload when the state has changed."""
    version = _draft(request, pk)
    if version.state != Version.State.INSPECTING:
        response = HttpResponse(status=204)
        response["HX-Refresh"] = "true"
        return response
    context = {"version": version, "job": getattr(version, "inspection", None)}
    return render(request, "vectors/_inspection.html", context)


@post_only("draft", "pk")
@login_required
def draft_inspect(request: HttpRequest, pk: int) -> HttpResponse:
    """Confirm the foundation and start the inspection."""
    version = _draft(request, pk)
    form = FoundationForm(request.POST)
    if not form.is_valid():
        context = draft_context(version) | {"form": form}
        return render(request, "vectors/draft.html", context, status=422)
    try:
        services.request_inspection(version, foundation=form.cleaned_data["foundation"])
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    return redirect("draft", pk=version.pk)


@post_only("draft", "pk")
@login_required
def draft_publish(request: HttpRequest, pk: int) -> HttpResponse:
    """Publish what passed. What was typed is kept with the draft where it is refused."""
    version = _draft(request, pk)
    form = _publish_form(version, request.POST)
    if not form.is_valid():
        services.keep_typed(version, form.typed())
        context = draft_context(version) | {"form": form}
        return render(request, "vectors/draft.html", context, status=422)
    card = form.cleaned_data["card"]
    fields = form.described()
    try:
        vector = services.publish(
            version, name=form.cleaned_data.get("name", ""), fields=fields, card=card
        )
    except Refusal as refusal:
        services.keep_typed(version, form.typed())
        messages.error(request, explain(refusal))
        return redirect("draft", pk=version.pk)
    return redirect(vector)


@post_only("draft", "pk")
@login_required
def draft_preview(request: HttpRequest, pk: int) -> HttpResponse:
    """The card as it will look."""
    version = _draft(request, pk)
    html = render_card(read_card(request.POST.get("card", "")).body)
    return render(request, "vectors/_card_preview.html", {"version": version, "html": html})


@post_only("draft", "pk")
@login_required
def draft_discard(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete a draft and its bytes."""
    version = _draft(request, pk)
    if version.is_draft:
        discard(version)
    return redirect("upload")
