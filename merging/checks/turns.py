"""Whose turn it is: checks load whole models, so only a few run at a time, the asked ones first."""

from __future__ import annotations

import threading

from django.conf import settings
from django.utils import timezone

from vectors import leases
from vectors.leases import JobState

from .models import AbilityCheck, CheckJob, CoefficientSweep, VersionCheck

# Somebody waits for the first two; a version's own check has time.
ORDER: tuple[type[CheckJob], ...] = (AbilityCheck, CoefficientSweep, VersionCheck)

# Set when this worker has been told to end: the job it is on goes back, and no other is begun.
ending = threading.Event()


def taken_by_others(model: type[CheckJob]) -> bool:
    """Whether a job of this kind has to wait: enough are running, or more urgent ones wait.

    Two that look at the same moment may both go on; that costs memory and breaks nothing.
    """
    running = sum(
        job._default_manager.filter(state=JobState.RUNNING, lease_until__gte=timezone.now()).count()
        for job in ORDER
    )
    if running >= settings.ARMORY_CHECKS_AT_ONCE or ending.is_set():
        return True
    before = ORDER[: ORDER.index(model)] if model is VersionCheck else ()
    return any(job._default_manager.filter(state=JobState.QUEUED).exists() for job in before)


def next_in_line() -> None:
    """Ring for the job that waits longest, the urgent ones first."""
    for job in ORDER:
        waiting = job._default_manager.filter(state=JobState.QUEUED).order_by("created").first()
        if waiting is not None:
            leases.ring(waiting)
            return
