"""Checks and sweeps of a recipe: start one, follow it, stop it; a version measured again."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from merging.check_context import check_context, progress_of
from merging.checks.models import AbilityCheck, CoefficientSweep
from merging.checks.services import (
    cancel,
    may_measure_again,
    measure_again,
    start_check,
    start_sweep,
)
from merging.events import event_response
from merging.models import EquippedModel
from merging.naming import find_version
from merging.sweep_context import job_name, sweep_context
from merging.sweep_form import SweepForm
from merging.views import usable_recipe
from vectors.errors import explain
from vectors.posting import post_only
from vectors.tensorfile.errors import Problem
from vectors.views import visible_vector

CHECK = "check"
ABILITIES, SWEEP, MEASURED = "#abilities", "#sweep", "#measured"


@post_only("equipped", "slug", fragment=ABILITIES)
def check(request: HttpRequest, slug: str) -> HttpResponse:
    """Start the check of a recipe, or again. ``also``: vectors whose probes are asked as well."""
    row = usable_recipe(request, slug)
    if not request.user.is_authenticated:
        return redirect_to_login(row.get_absolute_url() + ABILITIES)
    try:
        names = [name for name in request.POST.getlist("also") if name.strip()]
        start_check(row, request.user, also=[find_version(name, request.user) for name in names])
    except Problem as problem:
        messages.error(request, explain(problem))
    return redirect(row.get_absolute_url() + ABILITIES)


@post_only("equipped", "slug", fragment=SWEEP)
def sweep(request: HttpRequest, slug: str) -> HttpResponse:
    """Start a sweep over the form's coefficients; refused, they are kept in the page's address."""
    row = usable_recipe(request, slug)
    if not request.user.is_authenticated:
        return redirect_to_login(row.get_absolute_url() + SWEEP)
    form = SweepForm(row, request.POST)
    if form.is_valid():
        try:
            job = start_sweep(row, form.settings(), request.user)
            return redirect(f"{row.get_absolute_url()}?sweep={job_name(job)}{SWEEP}")
        except Problem as problem:
            messages.error(request, explain(problem))
    return redirect(f"{row.get_absolute_url()}?{form.query()}{SWEEP}")


@require_safe
def checks(request: HttpRequest, slug: str) -> HttpResponse:
    """The part of the recipe's page about checks: put in place of the old one when a job ends."""
    row = usable_recipe(request, slug)
    wanted = request.GET.get("sweep", "")[:64]
    user = request.user
    context = {"row": row, **check_context(row, user), **sweep_context(row, user, wanted=wanted)}
    return render(request, "merging/_checks.html", context)


@require_safe
def progress(request: HttpRequest, slug: str, job: str) -> HttpResponse:
    """The moving part, polled where events do not arrive; asks for a reload at the end."""
    row = usable_recipe(request, slug)
    found = find_job(row, job)
    if found.ended:
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
    context = {"row": row, "job": job, "progress": progress_of(found)}
    return render(request, "merging/_check_progress.html", context)


async def events(request: HttpRequest, slug: str, job: str) -> HttpResponseBase:
    """The same as server-sent events, until the job ends."""
    row = await sync_to_async(usable_recipe)(request, slug)
    found = await sync_to_async(find_job)(row, job)
    jobs = type(found)._default_manager.defer("result")
    return event_response(lambda: progress_of(jobs.get(pk=found.pk)))


@post_only("equipped", "slug")
def stop(request: HttpRequest, slug: str, job: str) -> HttpResponse:
    """Stop a job that one has started."""
    row = usable_recipe(request, slug)
    try:
        cancel(find_job(row, job), request.user)
    except Problem as problem:
        messages.error(request, explain(problem))
    if job == CHECK:
        return redirect(row.get_absolute_url() + ABILITIES)
    return redirect(f"{row.get_absolute_url()}?sweep={job}{SWEEP}")


@post_only("repo", "namespace", "name", fragment=MEASURED)
def measure(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Measure a published version again; ``version`` names it as its page does."""
    vector = visible_vector(request, namespace, name)
    wanted = request.POST.get("version", "")
    version = next((each for each in vector.versions.all() if f"v{each.number}" == wanted), None)
    if version is None or not may_measure_again(request.user, version):
        raise Http404
    try:
        measure_again(version, request.user)
    except Problem as problem:
        messages.error(request, explain(problem))
    return redirect(f"{vector.get_absolute_url()}?version={wanted}{MEASURED}")


def find_job(row: EquippedModel, name: str) -> AbilityCheck | CoefficientSweep:
    """The recipe's check, or the sweep whose key begins with ``name``; 404 where there is none."""
    if name == CHECK:
        found: Any = AbilityCheck.objects.filter(equipped=row).first()
    else:
        found = row.sweeps.filter(key__startswith=name).first()
    if found is None:
        raise Http404
    return found
