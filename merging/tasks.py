"""What the broker's bell wakes. Checks and builds have queues of their own: they take minutes."""

from celery import shared_task

CHECKS = "armory.checks"
BUILDS = "armory.builds"


@shared_task
def run_ability_check(job_id: int) -> None:
    from merging.checks.running import run_ability_check

    run_ability_check(job_id)


@shared_task
def run_sweep(job_id: int) -> None:
    from merging.checks.running import run_sweep

    run_sweep(job_id)


@shared_task
def run_version_check(job_id: int) -> None:
    from merging.checks.running import run_version_check

    run_version_check(job_id)


@shared_task
def run_build(build_id: int) -> None:
    from merging.building import run_build

    run_build(build_id)
