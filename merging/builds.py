"""Verbs of builds: start one, stop it, make room for it, drop it; and which files lie ready."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings as site
from django.db import transaction
from django.db.models import Q, Sum
from django.utils import timezone

from merging.engine.run import identity
from merging.models import Build, BuildFile, BuildState, EquippedModel
from merging.services import may_use
from vectors import leases
from vectors.dropping import drop_unreferenced
from vectors.errors import Refusal, _, row_of
from vectors.storage.current import storage

MAX_UNDER_WAY = 3  # builds of one user, waiting or running

_UNDER_WAY = (BuildState.QUEUED, BuildState.RUNNING)
_AGAIN = (BuildState.FAILED, BuildState.CANCELLED, BuildState.EVICTED)
_RESET = {**leases.AFRESH, "refusal": {}, "started": None, "cancelled": False}


class NoBuilds(Refusal):
    """The operator has switched builds off."""


class NeverFits(Refusal):
    """The model is larger than all the room there is for builds."""


class NoRoomYet(Refusal):
    """What is being written right now takes the room."""


# --- starting and stopping -------------------------------------------------------------------


def start_build(*, row: EquippedModel, user: Any) -> Build:
    """Start the build of a recipe, or again; one that waits, runs or is ready stays as it is.

    Raises Refusal.
    """
    if not user.is_authenticated:
        raise Refusal(_("Sign in to keep a model ready."))
    check_may_be_built(row)
    if not may_use(row, user):
        raise Refusal(_("You may not use every part of this recipe, so you cannot keep it ready."))
    known = Build.objects.filter(equipped=row, state=BuildState.DONE).first()
    if known is not None:
        if is_current(known):
            return known
        evict(known)
    with transaction.atomic():
        build, made = Build.objects.get_or_create(equipped=row, defaults={"requested_by": user})
        if not made:
            again = Build.objects.filter(pk=build.pk, state__in=_AGAIN)
            if not again.update(**_RESET, requested_by=user):
                return build
            build.refresh_from_db()
        mine = Build.objects.filter(requested_by=user, state__in=_UNDER_WAY)
        if mine.count() > MAX_UNDER_WAY:
            raise Refusal(
                _("You have %(limit)d builds under way. Wait for one to end, or stop one."),
                limit=MAX_UNDER_WAY,
            )
        leases.ring(build)
    return build


def check_may_be_built(row: EquippedModel) -> None:
    """Raise Refusal where no build of the recipe can ever be kept here."""
    limit = site.ARMORY_BUILDS_BYTES
    if not limit:
        raise _switched_off()
    if row.nbytes > limit:
        raise NeverFits(
            _(
                "This model has %(size).1f GB, and this site keeps %(limit).1f GB of builds in "
                "all. It is computed at each download instead."
            ),
            size=row.nbytes / 1e9,
            limit=limit / 1e9,
        )


def may_stop(build: Build, user: Any) -> bool:
    """Whether ``user`` may stop the build: who asked for it, and who keeps the shop."""
    if build.ended or not user.is_authenticated:
        return False
    return bool(build.requested_by_id == user.pk or user.is_staff)


def stop_build(*, build: Build, user: Any) -> None:
    """Stop a build: at once where it waits, at its next look where it runs. Raises Refusal."""
    if not build.ended and not may_stop(build, user):
        raise Refusal(_("Only who started a build may stop it."))
    builds = Build.objects.filter(pk=build.pk)
    builds.filter(state__in=_UNDER_WAY).update(cancelled=True)
    builds.filter(state=BuildState.QUEUED).update(
        state=BuildState.CANCELLED, finished=timezone.now()
    )
    build.refresh_from_db()


# --- room ------------------------------------------------------------------------------------


def make_room(build: Build, size: int) -> None:
    """Reserve ``size`` bytes for a running build, dropping those that were not used for longest.

    Nothing is dropped unless it then fits. Raises NeverFits, and NoRoomYet where the rest is taken
    by builds that are being written.
    """
    check_may_be_built(build.equipped)
    limit = site.ARMORY_BUILDS_BYTES
    with transaction.atomic():
        holding = Q(state=BuildState.RUNNING) | Q(files__isnull=False) | Q(pk=build.pk)
        pks = set(Build.objects.filter(holding).values_list("pk", flat=True))
        # Two workers that make room at the same moment do it one after the other.
        locked = list(Build.objects.select_for_update().filter(pk__in=pks).order_by("pk"))
        others = [each for each in locked if each.pk != build.pk]
        taken = _stored_bytes()
        for each in others:
            if each.state == BuildState.RUNNING:
                taken[each.pk] = max(each.total_bytes, taken.get(each.pk, 0))
        taken.pop(build.pk, None)  # part of what is asked for
        used, dropped = sum(taken.values()), []
        for each in sorted(others, key=_last_use):
            if used + size <= limit:
                break
            if each.state != BuildState.RUNNING:
                used -= taken.get(each.pk, 0)
                dropped.append(each.pk)
        if used + size > limit:
            raise NoRoomYet(_("Other builds are being written and take the room."))
        ours = Build.objects.filter(pk=build.pk, owner_token=build.owner_token)
        ours.update(total_bytes=size)
        _drop(dropped)


def keep_to_room() -> int:
    """Drop what has no room any more because the operator gave builds less; where they have none,
    end those that wait, too. Called by the sweep; how many were dropped."""
    limit = site.ARMORY_BUILDS_BYTES
    if not limit:
        _end_waiting()
    if sum(_stored_bytes().values()) <= limit:  # no write lock for nothing
        return 0
    with transaction.atomic():
        pks = set(BuildFile.objects.values_list("build", flat=True))
        locked = list(Build.objects.select_for_update().filter(pk__in=pks).order_by("pk"))
        taken = _stored_bytes()
        used, dropped = sum(taken.values()), []
        for each in sorted(locked, key=_last_use):
            if used <= limit:
                break
            if each.state != BuildState.RUNNING:
                used -= taken.get(each.pk, 0)
                dropped.append(each.pk)
        _drop(dropped)
    return len(dropped)


def _end_waiting() -> None:
    """End the builds that no worker is on: none will come to them."""
    orphaned = Q(state=BuildState.RUNNING, lease_until__lt=timezone.now())
    for pk in Build.objects.filter(Q(state=BuildState.QUEUED) | orphaned).values_list(
        "pk", flat=True
    ):
        lease = leases.claim(Build, pk)
        if lease is None:
            continue
        build = Build.objects.get(pk=pk)
        if build.upload:
            storage().abort(build.upload, build.handle)
        refusal = _switched_off()
        try:
            lease.finish(BuildState.FAILED, error=str(refusal), refusal=row_of(refusal))
        except leases.LeaseLost:
            continue  # it took so long that somebody else has it


def _switched_off() -> NoBuilds:
    return NoBuilds(_("This site keeps no builds; its operator has switched them off."))


def _last_use(build: Build) -> tuple[datetime, int]:
    return build.last_used or build.finished or build.created, build.pk


def evict(build: Build) -> None:
    """Drop the files of a build that is ready."""
    with transaction.atomic():
        _drop([build.pk])
    build.refresh_from_db()


def _drop(pks: Iterable[int]) -> None:
    """Drop the files of builds that nobody writes; inside a transaction. Rows go first: who reads
    a file half-way has it open, or is given the rest by the stream."""
    builds = Build.objects.filter(pk__in=list(pks)).exclude(state=BuildState.RUNNING)
    files = BuildFile.objects.filter(build__in=builds.values("pk"))
    shas = sorted(set(files.values_list("blob_id", flat=True)))
    files.delete()
    builds.filter(state=BuildState.DONE).update(state=BuildState.EVICTED)
    transaction.on_commit(partial(drop_unreferenced, shas), robust=True)


def drop_files(files: Iterable[BuildFile]) -> None:
    """Drop single files of a build: by whoever holds its lease."""
    rows = list(files)
    with transaction.atomic():
        BuildFile.objects.filter(pk__in=[row.pk for row in rows]).delete()
        shas = sorted({row.blob_id for row in rows})
        transaction.on_commit(partial(drop_unreferenced, shas), robust=True)


def _stored_bytes() -> dict[int, int]:
    """What the files of each build take. Equal bytes are counted for each build that has them."""
    sums = BuildFile.objects.order_by().values("build").annotate(n=Sum("blob__size"))
    return dict(sums.values_list("build", "n"))


# --- what lies ready -------------------------------------------------------------------------


def etag_of(row: EquippedModel, path: str) -> str:
    """What stands for the bytes of a computed file: it never looks like a SHA-256."""
    return f"armory-{identity(row.recipe, path)[:40]}"


def is_current(build: Build) -> bool:
    """Whether the build's files are what would be computed now, and lie in storage."""
    files = current_files(build, build.equipped)
    return bool(files) and all(storage().size(file.blob_id) == file.blob.size for file in files)


def current_files(build: Build, row: EquippedModel) -> list[BuildFile]:
    """The files that the build of ``row`` has stored; none where one of them is of another kernel
    than today's."""
    files = list(build.files.filter(stored=True).select_related("blob"))
    return files if all(file.etag == etag_of(row, file.path) for file in files) else []
