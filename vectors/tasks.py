"""What the broker's bell wakes."""

from celery import shared_task


@shared_task
def run_inspection(job_id: int) -> None:
    from vectors.services import run_inspection

    run_inspection(job_id)
