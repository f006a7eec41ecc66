"""Pages and files of equipped models."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from merging.build_context import build_context
from merging.card import formula, licenses, readme, recipe_yaml
from merging.check_context import check_context
from merging.engine.errors import RecipeError, _
from merging.engine.methods import get_method
from merging.engine.recipe import parse_coefficient
from merging.formula import target_part, term_part
from merging.models import EquippedModel
from merging.reopening import loadout_url
from merging.repository import (
    Opened,
    difference_file,
    lora_files,
    read_difference,
    zip_pieces,
    zip_size,
)
from merging.services import (
    count_equip,
    equip_expression,
    equip_terms,
    find_version,
    may_see_recipe,
    missing_grants,
)
from merging.sweep_context import sweep_context
from merging.sweep_form import SweepForm
from merging.usage import of_equipped
from vectors.cards import read_card
from vectors.cards import render as render_card
from vectors.downloads import ranged_response, stream_response
from vectors.errors import explain
from vectors.posting import post_only
from vectors.tensorfile.errors import Problem
from vectors.views import content_type_of, endpoint_of

MAIN = "main"


def usable_recipe(request: HttpRequest, slug: str) -> EquippedModel:
    """The recipe at this address. 404 where a part of it is private to others; 403, saying which
    vectors to ask for, where the visitor may not use all of it."""
    rows = EquippedModel.objects.select_related("foundation", "target__vector").prefetch_related(
        "terms__version__vector__owner", "terms__version__vector__cover"
    )
    row = get_object_or_404(rows, slug=slug)
    if not may_see_recipe(row, request.user):
        raise Http404
    missing = missing_grants(row, request.user)
    if missing:
        refusal = Problem(
            _("This model takes access to all of its vectors; ask for it on their pages: %(ids)s."),
            ids=", ".join(sorted({str(version.vector) for version in missing})),
        )
        raise PermissionDenied(explain(refusal))
    return row


@post_only("loadout")
def equip(request: HttpRequest) -> HttpResponse:
    """One click: make the recipe of the form, count it, and start the download on its page.

    Fields: ``expression``, or ``vector`` and ``coefficient`` repeated; ``on`` (a repository id).
    """
    on = request.POST.get("on", "").strip()
    back = request.POST.get("back", "")
    try:
        if request.POST.get("expression", "").strip():
            row = equip_expression(request.POST["expression"], on=on, user=request.user)
        else:
            row = equip_terms(_terms(request), on=on, user=request.user)
    except Problem as problem:
        if _wants_json(request):
            return JsonResponse({"error": explain(problem)}, status=400)
        messages.error(request, explain(problem))
        return redirect(back if back.startswith("/") and not back.startswith("//") else "home")
    count_equip(row, user=request.user, visit=visit_of(request))
    if _wants_json(request):
        return JsonResponse({"repo_id": row.repo_id, "url": row.get_absolute_url()})
    return redirect(f"{row.get_absolute_url()}?start=1")


@require_safe
def equipped(request: HttpRequest, slug: str) -> HttpResponse:
    """The recipe page: formula, parts, checks, what happens to each tensor, downloads."""
    row = usable_recipe(request, slug)
    return render(request, "merging/equipped.html", page_context(request, row))


def page_context(request: HttpRequest, row: EquippedModel) -> dict[str, Any]:
    """Everything the recipe page shows."""
    with closing(Opened(row)) as opened:
        files = file_rows(row, opened)
        difference, lora = difference_file(opened), lora_files(opened)
    recipe = row.recipe
    return {
        "row": row,
        "recipe": recipe,
        "method": get_method(recipe.method),
        "parts": formula_parts(row),
        "formula": formula(row),
        "loadout_url": loadout_url(row),
        "licenses": licenses(row),
        "license_names": sorted({name for _repo, name in licenses(row) if name}),
        "files": files,
        "total": sum(file["size"] for file in files),
        "report": report_rows(row.report),
        "yaml": recipe_yaml(row),
        "card_html": render_card(read_card(readme(row)).body),
        "usage": of_equipped(row, endpoint=endpoint_of(request)),
        "zip_url": reverse("equipped_zip", args=[row.slug]),
        "difference": difference,
        "lora_size": sum(file.size for file in lora),
        "start": request.GET.get("start") == "1",
        "again_url": again_url(request, row),
        "files_url": again_url(request, row, "files"),
        **build_context(row, request.user),
        **check_context(row, request.user),
        **sweep_context(
            row,
            request.user,
            wanted=request.GET.get("sweep", "")[:64],
            form=SweepForm.asked(row, request.GET),
        ),
    }


def again_url(request: HttpRequest, row: EquippedModel, section: str = "") -> str:
    """Where the page goes to show itself anew, without a script, while a job runs. The address has
    to be another one each time: browsers do not load again what differs by its fragment."""
    query = request.GET.copy()
    look = query.get("look", "")
    query["look"] = str(int(look) + 1 if look.isdecimal() and len(look) < 9 else 1)
    section = section or ("sweep" if "sweep" in query else "abilities")
    return f"{row.get_absolute_url()}?{query.urlencode()}#{section}"


@require_safe
def equipped_zip(request: HttpRequest, slug: str) -> HttpResponseBase:
    """The whole repository as one .zip of known length."""
    row = usable_recipe(request, slug)
    name = f"{row.foundation.name}-{row.slug}"
    return stream_response(
        request,
        size=zip_size(row, name),
        content_type="application/zip",
        file_name=f"{name}.zip",
        pieces=zip_pieces(row, name),
    )


@require_safe
def equipped_lora(request: HttpRequest, slug: str) -> HttpResponseBase:
    """The recipe as one LoRA for peft, where it is a sum of LoRAs: a .zip of known length."""
    row = usable_recipe(request, slug)
    with closing(Opened(row)) as opened:
        if not lora_files(opened):
            raise Http404
    name = f"{row.foundation.name}-{row.slug}-lora"
    return stream_response(
        request,
        size=zip_size(row, name, lora_files),
        content_type="application/zip",
        file_name=f"{name}.zip",
        pieces=zip_pieces(row, name, lora_files),
    )


@require_safe
def equipped_difference(request: HttpRequest, slug: str) -> HttpResponseBase:
    """What the recipe adds to its target, a vector of its own: ``delta.safetensors``."""
    row = usable_recipe(request, slug)
    with closing(Opened(row)) as opened:
        file = difference_file(opened)
    if file is None:
        raise Http404
    return ranged_response(
        request,
        size=file.size,
        etag=file.etag,
        content_type=content_type_of(file.path),
        file_name=file.path,
        open_range=lambda start, stop: read_difference(row, start, stop),
    )


def formula_parts(row: EquippedModel) -> list[dict[str, Any]]:
    """The recipe for ``partials/formula.html``: the target, then each term with its sign."""
    target = row.target.vector if row.target is not None and row.target.vector else row.foundation
    return [
        target_part(target),
        *(
            term_part(Decimal(term.coefficient), term.version.vector, version=term.version)
            for term in row.terms.all()
        ),
    ]


CASES = {
    "merged": _("merged: the vectors change it"),
    "untouched": _("left as it is: no vector touches it"),
    "copied": _("copied: not a floating-point tensor"),
    "kept": _("kept from the target"),
    "taken": _("taken from another model, as a rule says"),
}


def report_rows(report: dict[str, Any]) -> dict[str, Any]:
    """The alignment report for the page: cases with counts, and what was left out or renamed."""
    cases = [
        {"case": case, "text": CASES[case], "count": len(names), "names": names[:200]}
        for case, names in report["cases"].items()
        if names
    ]
    return {**report, "rows": cases, "tensors": sum(row["count"] for row in cases)}


def _terms(request: HttpRequest) -> list[tuple[Any, Decimal]]:
    names = request.POST.getlist("vector")
    coefficients = request.POST.getlist("coefficient")
    if not names:
        raise RecipeError(_("Choose at least one vector."))
    if len(coefficients) != len(names):
        raise RecipeError(_("Each vector needs a coefficient."))
    return [
        (find_version(name, request.user), parse_coefficient(coefficient))
        for name, coefficient in zip(names, coefficients, strict=True)
    ]


def file_rows(row: EquippedModel, opened: Opened) -> list[dict[str, Any]]:
    """The files of the equipped model for the page's table."""
    return [
        {
            "path": file.path,
            "size": file.size,
            "sha256": file.sha256,
            "url": reverse("resolve", args=["equipped", row.slug, MAIN, file.path]),
            "computed": file.virtual is not None,
        }
        for file in opened.files.values()
    ]


def visit_of(request: HttpRequest) -> str:
    """What tells one stranger's visit from another's: the key of the session."""
    if not request.session.session_key:
        request.session.save()
    return request.session.session_key or ""


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept", "").startswith("application/json")
