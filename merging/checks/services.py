"""Verbs of ability checks: start a check or a sweep, stop it; measure what is published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings as site
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from merging.engine.methods import get_method
from merging.engine.recipe import coefficient_text, parse_coefficient
from merging.models import EquippedModel
from merging.services import may_use
from vectors import leases
from vectors.access import may_read
from vectors.errors import Refusal, _
from vectors.importing import store_bytes
from vectors.leases import JobState
from vectors.models import Foundation, Version
from vectors.probes import CONTROLS, parse_probes

from .models import AbilityCheck, CheckJob, CoefficientSweep, VersionCheck
from .plan import abilities_of, has_probes, setting_of

MAX_RUNNING = 3  # checks and sweeps of one user, waiting or running
MAX_SETTINGS = 12
MAX_ALSO = 8
# How long after a failure that the machine was at fault for a version is measured once more.
RETRY_AFTER = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))

_RESET = {**leases.AFRESH, "cancelled": False}
_ENDED = Q(state__in=(JobState.DONE, JobState.FAILED))


def start_check(row: EquippedModel, user: Any, *, also: Sequence[Version] = ()) -> AbilityCheck:
    """Start the check of a recipe, or again; one that waits or runs goes on as it is.

    ``also`` adds the probes of other versions, such as those an analogy is meant to reach.
    Raises Refusal.
    """
    _check_may_start(row, user)
    for version in also:
        if version.foundation_id != row.foundation_id or not may_read(user, version):
            raise Refusal(_("The probes of %(vector)s cannot be used here."), vector=str(version))
        if not has_probes(version):
            raise Refusal(_("%(vector)s comes without probes."), vector=str(version))
    known = AbilityCheck.objects.filter(equipped=row).first()
    kept = list(known.also.all()) if known is not None else []
    wanted = list({version.pk: version for version in (*kept, *also)}.values())
    if known is not None and known.state == JobState.RUNNING and len(wanted) > len(kept):
        raise Refusal(_("This recipe is being checked. Add probes to it when the check has ended."))
    if len(wanted) > MAX_ALSO:
        raise Refusal(
            _("A check takes the probes of %(limit)d vectors beside its own at most."),
            limit=MAX_ALSO,
        )
    if not abilities_of(row, wanted):
        raise Refusal(
            _(
                "There is nothing to ask: neither the vectors nor the foundation come with probes. "
                "Choose a vector whose probes you want to see."
            )
        )
    with transaction.atomic():
        job, made = AbilityCheck.objects.get_or_create(
            equipped=row, defaults={"requested_by": user}
        )
        job.also.add(*also)
        _queue(job, user, made)
    return job


def start_sweep(
    row: EquippedModel, settings: Sequence[Sequence[Decimal | str | float]], user: Any
) -> CoefficientSweep:
    """Start a sweep over ``settings``, each a coefficient per vector of the recipe.

    The same settings again are the same sweep. Raises Problem.
    """
    _check_may_start(row, user)
    if not get_method(row.recipe.method).weighted:
        raise Refusal(
            _("The method %(method)s finds the weights itself: there is nothing to sweep."),
            method=row.recipe.method,
        )
    wanted = list(dict.fromkeys(tuple(parse_coefficient(c) for c in each) for each in settings))
    if not 2 <= len(wanted) <= MAX_SETTINGS:
        raise Refusal(
            _("A sweep takes from 2 to %(limit)d different settings."), limit=MAX_SETTINGS
        )
    count = len(row.recipe.terms)
    for number, each in enumerate(wanted):
        if len(each) != count:
            raise Refusal(
                _("A setting has a coefficient for each of the %(count)d vectors."), count=count
            )
        setting_of(row, number, each)  # refuses what the method does not take
    if not abilities_of(row):
        raise Refusal(_("There is nothing to ask: no vector of the recipe comes with probes."))
    texts = [[coefficient_text(c) for c in each] for each in wanted]
    key = hashlib.sha256(json.dumps(sorted(texts)).encode()).hexdigest()
    with transaction.atomic():
        job, made = CoefficientSweep.objects.get_or_create(
            equipped=row, key=key, defaults={"settings": texts, "requested_by": user}
        )
        _queue(job, user, made)
    return job


def cancel(job: AbilityCheck | CoefficientSweep, user: Any) -> None:
    """Stop a job: at once where it waits, at its next look where it runs. Raises Refusal."""
    if not (user.is_authenticated and (job.requested_by_id == user.pk or user.is_staff)):
        raise Refusal(_("Only who started a check may stop it."))
    jobs = type(job)._default_manager.filter(pk=job.pk)
    jobs.exclude(_ENDED).update(cancelled=True)
    jobs.filter(state=JobState.QUEUED).update(state=JobState.FAILED, error=_("It was stopped."))
    job.refresh_from_db()


def measure_version(version: Version) -> VersionCheck | None:
    """Let a published version be measured on its own probes; None where it brings none.

    It is done once for each version: what it depends on does not change.
    """
    if version.state != Version.State.PUBLISHED or not has_probes(version):
        return None
    if version.foundation is None or version.foundation.nbytes > largest():
        return None
    with transaction.atomic():
        job, made = VersionCheck.objects.get_or_create(version=version)
        if made:
            leases.ring(job)
    return job


def may_measure_again(user: Any, version: Version) -> bool:
    """Whether a failed measurement of ``version`` is the user's to repeat."""
    return bool(user.is_authenticated and (user.pk == version.owner_id or user.is_staff))


def measure_again(version: Version, user: Any) -> VersionCheck:
    """Let a version be measured whose measurement failed, or misses a part. One that waits or runs
    goes on as it is. Raises Refusal."""
    if not may_measure_again(user, version):
        raise Refusal(_("Only its owner lets a version be measured again."))
    _check_site_runs(version.foundation.nbytes if version.foundation else 0)
    job = measure_version(version)
    if job is None:
        raise Refusal(_("Only a published version that comes with probes is measured."))
    whole = Q(state=JobState.DONE, result__problems=[])
    with transaction.atomic():
        ended = VersionCheck.objects.filter(_ENDED, pk=job.pk).exclude(whole)
        if ended.update(**_RESET, refusal={}, retries=0, requested_by=user):
            leases.ring(job)
    job.refresh_from_db()
    return job


def retry_measurements() -> int:
    """Measure again what the machine has failed to measure, a few times, later each time. Called
    by the sweep; how many were begun."""
    if site.ARMORY_CHECKS_AT_ONCE == 0:
        return 0
    now, due = timezone.now(), Q()
    for retries, wait in enumerate(RETRY_AFTER):
        due |= Q(retries=retries, finished__lt=now - wait)
    failed = VersionCheck.objects.filter(
        due, state=JobState.FAILED, refusal={}, version__state=Version.State.PUBLISHED
    )
    begun = 0
    for job in failed[:100]:
        with transaction.atomic():
            # Others sweep, and its owner may ask, at the same moment: one of them changes the row.
            same = VersionCheck.objects.filter(
                pk=job.pk, state=JobState.FAILED, retries=job.retries
            )
            if same.update(**_RESET, retries=F("retries") + 1):
                leases.ring(job)
                begun += 1
    return begun


def set_controls(foundation: Foundation, content: bytes) -> None:
    """Give ``foundation`` its control items, or others. Raises ProbeError."""
    parse_probes(content, CONTROLS)
    digest = hashlib.sha256(content).hexdigest()
    if foundation.files.filter(path=CONTROLS, blob_id=digest).exists():
        return
    with transaction.atomic():
        foundation.files.update_or_create(path=CONTROLS, defaults={"blob": store_bytes(content)})


def largest() -> int:
    """Bytes of the largest model that is run here: it has to fit into the runner twice."""
    return site.ARMORY_CHECK_MEMORY_GB * 10**9 // 2


def _check_may_start(row: EquippedModel, user: Any) -> None:
    if not user.is_authenticated:
        raise Refusal(_("Sign in to start a check."))
    if not may_use(row, user):
        raise Refusal(_("You may not use every part of this recipe, so you cannot check it."))
    _check_site_runs(row.nbytes)


def _check_site_runs(nbytes: int) -> None:
    if site.ARMORY_CHECKS_AT_ONCE == 0:
        raise Refusal(_("This site runs no checks; its operator has switched them off."))
    if nbytes > largest():
        raise Refusal(
            _("The model has %(size).1f GB; this site runs models of up to %(limit).1f GB."),
            size=nbytes / 1e9,
            limit=largest() / 1e9,
        )


def _queue(job: CheckJob, user: Any, made: bool) -> None:
    """Ring for a job that is new or has ended; inside the transaction that decides it."""
    manager = type(job)._default_manager
    if not made:
        again = manager.filter(_ENDED, pk=job.pk).update(**_RESET, requested_by=user)
        if not again:
            return
        job.refresh_from_db()
    running = sum(
        kind.objects.filter(requested_by=user).exclude(_ENDED).count()
        for kind in (AbilityCheck, CoefficientSweep)
    )
    if running > MAX_RUNNING:
        raise Refusal(
            _("You have %(limit)d checks under way. Wait for one to end, or stop one."),
            limit=MAX_RUNNING,
        )
    leases.ring(job)
