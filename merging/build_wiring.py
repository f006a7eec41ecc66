"""The bell of builds: rung when one can begin, else messages would only pile up."""

from django.conf import settings

from merging import tasks
from merging.models import Build
from vectors import leases


def ring(pk: int) -> None:
    from merging.building import another_runs

    if settings.ARMORY_BUILDS_BYTES and not another_runs():
        tasks.run_build.apply_async((pk,), queue=tasks.BUILDS, retry=False)


leases.register(Build, ring)
