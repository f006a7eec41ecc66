"""What connects the checks to the rest when the site starts: bells, and the shelf.

A vector whose current version changes has published one, or put one back: it is measured then, by a
row in the same transaction.
"""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_save
from django.dispatch import receiver

from merging import tasks
from vectors import leases
from vectors.models import Vector

from .models import AbilityCheck, CoefficientSweep, VersionCheck

leases.register(AbilityCheck, lambda pk: tasks.run_ability_check.apply_async((pk,), retry=False))
leases.register(CoefficientSweep, lambda pk: tasks.run_sweep.apply_async((pk,), retry=False))
leases.register(VersionCheck, lambda pk: tasks.run_version_check.apply_async((pk,), retry=False))


@receiver(post_save, sender=Vector, dispatch_uid="measure what is published")
def measure_what_is_published(
    instance: Vector, update_fields: frozenset[str] | None = None, raw: bool = False, **_: Any
) -> None:
    if raw or instance.current is None or "current" not in (update_fields or ()):
        return
    from .services import measure_version

    measure_version(instance.current)
