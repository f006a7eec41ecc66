"""The Celery app and the sweep.

Celery only rings the bell. What is to be done stands in the database; every worker looks there by
itself every few seconds, so that a lost message or a killed worker delays a job and loses nothing.
"""

import logging
import os
import sys
import threading
import warnings
from typing import Any

if "worker" in sys.argv:
    # One thread for each job: jobs run side by side in processes. These are read once, when
    # torch and numba are first imported, hence before anything else here.
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
    # Messages are JSON: running as root in a container is not the danger this warns of.
    warnings.filterwarnings("ignore", message=".*superuser privileges")

from celery import Celery
from celery.signals import worker_ready, worker_shutting_down

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

app = Celery("armory")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

log = logging.getLogger(__name__)

SWEEP_EVERY = 3.0  # seconds; /healthz calls a worker dead after 30 s without a beat

_stop = threading.Event()


def sweep_once() -> None:
    """Beat, sweep, measure again, drop what has expired or has no room; an error is logged, and
    the next round tries again."""
    from django.db import connections

    from marketplace.hub.xet import spool
    from merging.builds import keep_to_room
    from merging.checks.services import retry_measurements
    from vectors import claims, leases, uploads

    steps = (
        leases.beat,
        leases.sweep_all,
        retry_measurements,
        keep_to_room,
        uploads.expire_uploads,
        claims.expire_claims,
        spool.sweep,
    )
    for step in steps:
        try:
            step()
        except Exception:
            # Anything: a thread that dies here is a worker that looks alive and is not.
            log.exception("%s failed; the next sweep is in %g s", step.__name__, SWEEP_EVERY)
        finally:
            # Kept connections would be inherited by pool processes forked later.
            connections.close_all()


def sweep_until_stopped() -> None:
    while not _stop.is_set():
        sweep_once()
        _stop.wait(SWEEP_EVERY)


@worker_ready.connect
def start_sweeping(**_: Any) -> None:
    _stop.clear()
    threading.Thread(target=sweep_until_stopped, name="sweep", daemon=True).start()


@worker_shutting_down.connect
def stop_sweeping(**_: Any) -> None:
    _stop.set()
