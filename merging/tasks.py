"""What the broker's bell wakes. Checks have a queue of their own: they take minutes."""

from celery import shared_task

CHECKS = "armory.checks"


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
