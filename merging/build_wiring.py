"""The bell of builds: rung when nothing else is being built, else messages would only pile up."""

from merging import tasks
from merging.models import Build
from vectors import leases


def ring(pk: int) -> None:
    from merging.building import another_runs

    if not another_runs():
        tasks.run_build.apply_async((pk,), queue=tasks.BUILDS, retry=False)


leases.register(Build, ring)
