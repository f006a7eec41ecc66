"""What connects the checks to the rest when the site starts: bells, and the shelf.

A vector whose current version changes has published one, or put one back: it is measured then, by a
row in the same transaction.
"""

from __future__ import annotations

from typing import Any

from celery.signals import worker_shutting_down
from django.db.models.signals import post_save
from django.dispatch import receiver

from merging import tasks
from vectors import leases
from vectors.models import Vector

from .models import AbilityCheck, CheckJob, CoefficientSweep, VersionCheck
from .turns import ending, taken_by_others


def _bell(job: type[CheckJob], task: Any) -> None:
    def ring(pk: int) -> None:
        # A job that cannot begin yet is rung for when its turn comes: messages would only pile up.
        if not taken_by_others(job):
            task.apply_async((pk,), queue=tasks.CHECKS, retry=False)

    leases.register(job, ring)


_bell(AbilityCheck, tasks.run_ability_check)
_bell(CoefficientSweep, tasks.run_sweep)
_bell(VersionCheck, tasks.run_version_check)


@worker_shutting_down.connect
def give_jobs_back(**_: Any) -> None:
    ending.set()


@receiver(post_save, sender=Vector, dispatch_uid="measure what is published")
def measure_what_is_published(
    instance: Vector, update_fields: frozenset[str] | None = None, raw: bool = False, **_: Any
) -> None:
    if raw or instance.current is None or "current" not in (update_fields or ()):
        return
    from .services import measure_version

    measure_version(instance.current)
