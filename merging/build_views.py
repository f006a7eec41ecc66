"""The build of a recipe: start it, follow it, stop it. As open, and as closed, as the recipe."""

from __future__ import annotations

from contextlib import closing

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from merging.build_context import build_context, progress_of
from merging.builds import start_build, stop_build
from merging.events import event_response
from merging.models import Build, EquippedModel
from merging.repository import Opened
from merging.views import file_rows, usable_recipe
from vectors.errors import explain
from vectors.posting import post_only
from vectors.tensorfile.errors import Problem

FILES = "#files"


@post_only("equipped", "slug", fragment=FILES)
def build(request: HttpRequest, slug: str) -> HttpResponse:
    """Start the build of a recipe, or again."""
    row = usable_recipe(request, slug)
    if not request.user.is_authenticated:
        return redirect_to_login(row.get_absolute_url() + FILES)
    try:
        start_build(row=row, user=request.user)
    except Problem as problem:
        messages.error(request, explain(problem))
    return redirect(row.get_absolute_url() + FILES)


@post_only("equipped", "slug", fragment=FILES)
def stop(request: HttpRequest, slug: str) -> HttpResponse:
    """Stop a build that one has started."""
    row = usable_recipe(request, slug)
    try:
        stop_build(build=find_build(row), user=request.user)
    except Problem as problem:
        messages.error(request, explain(problem))
    return redirect(row.get_absolute_url() + FILES)


@require_safe
def files(request: HttpRequest, slug: str) -> HttpResponse:
    """The part of the recipe's page about its files: put in place of the old one at the end."""
    row = usable_recipe(request, slug)
    with closing(Opened(row)) as opened:
        rows = file_rows(row, opened)
    context = {"row": row, "files": rows, **build_context(row, request.user)}
    return render(request, "merging/_equipped_files.html", context)


@require_safe
def progress(request: HttpRequest, slug: str) -> HttpResponse:
    """The moving part, polled where events do not arrive; asks for a reload at the end."""
    row = usable_recipe(request, slug)
    found = find_build(row)
    if found.ended:
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
    context = {"row": row, "progress": progress_of(found)}
    return render(request, "merging/_equipped_build_progress.html", context)


async def events(request: HttpRequest, slug: str) -> HttpResponseBase:
    """The same as server-sent events, until the build ends."""
    row = await sync_to_async(usable_recipe)(request, slug)
    found = await sync_to_async(find_build)(row)
    return event_response(lambda: progress_of(Build.objects.get(pk=found.pk)))


def find_build(row: EquippedModel) -> Build:
    """The recipe's build; 404 where nobody has asked for one."""
    found = Build.objects.filter(equipped=row).first()
    if found is None:
        raise Http404
    return found
