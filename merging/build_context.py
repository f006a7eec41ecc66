"""What the pages show of a build: how far it is, and since when its files lie ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings as site
from django.utils.translation import gettext as _

from merging.builds import check_may_be_built, current_files, etag_of, may_stop
from merging.models import Build, BuildFile, BuildState, EquippedModel
from vectors.errors import explain, explain_row
from vectors.templatetags.armory import size as said
from vectors.tensorfile.errors import Problem


def build_context(row: EquippedModel, user: Any) -> dict[str, Any]:
    """The build of a recipe for ``merging/_equipped_files.html``."""
    build = Build.objects.filter(equipped=row).first()
    return {
        "build": build,
        "build_progress": progress_of(build) if build is not None and not build.ended else None,
        "build_problem": problem_of(build),
        "build_ready": is_ready(build, row),
        "build_refused": refused(row),
        "may_stop_build": build is not None and may_stop(build, user),
        "builds_on": site.ARMORY_BUILDS_BYTES > 0,
    }


def is_ready(build: Build | None, row: EquippedModel) -> bool:
    """Whether the build's files are those of today's kernel, by its rows alone."""
    if build is None or build.state != BuildState.DONE or not site.ARMORY_BUILDS_BYTES:
        return False
    return bool(current_files(build, row))


def ready_among(rows: Sequence[EquippedModel]) -> set[int]:
    """The keys of those of ``rows`` whose builds are ready, by one query."""
    if not site.ARMORY_BUILDS_BYTES:
        return set()
    files = BuildFile.objects.filter(build__equipped__in=rows, build__state=BuildState.DONE)
    found: dict[int, dict[str, str]] = {}
    for pk, path, etag in files.filter(stored=True).values_list("build__equipped", "path", "etag"):
        found.setdefault(pk, {})[path] = etag
    return {
        row.pk
        for row in rows
        if row.pk in found
        and all(etag == etag_of(row, path) for path, etag in found[row.pk].items())
    }


def refused(row: EquippedModel) -> str:
    """Why no build of the recipe can be kept here; empty where one can."""
    try:
        check_may_be_built(row)
    except Problem as problem:
        return explain(problem)
    return ""


def problem_of(build: Build | None) -> str:
    """Why the build failed, in the reader's language; empty where it did not."""
    if build is None or build.state != BuildState.FAILED:
        return ""
    if build.refusal:
        return explain_row(build.refusal)
    return _(build.error) if build.error else _("The build broke. Try again.")


def progress_of(build: Build) -> dict[str, Any]:
    """How far a build is, in words and numbers."""
    running = build.state == BuildState.RUNNING
    labels = {
        BuildState.QUEUED: _("Waiting for its turn"),
        "room": _("Making room"),
        "writing": _("Writing the files"),
        "storing": _("Putting a file in its place"),
    }
    label = labels.get(build.stage if running else BuildState.QUEUED, _("Getting ready"))
    done, total = (build.done_bytes, build.total_bytes) if running else (0, 0)
    quarter = 25 * (done * 4 // total) if total else 0
    return {
        "state": build.state,
        "label": label,
        "detail": _("%(done)s of %(n)s") % {"done": said(done), "n": said(total)} if total else "",
        "done": done,
        "total": total,
        "live": _("%(label)s, %(n)d %%") % {"label": label, "n": quarter} if total else label,
        "ended": build.ended,
        "said": problem_of(build) or _ended_words(build),
    }


def _ended_words(build: Build) -> str:
    words = {
        BuildState.DONE: _("The files lie ready."),
        BuildState.CANCELLED: _("The build was stopped."),
    }
    return words.get(BuildState(build.state), "")
