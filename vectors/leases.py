"""Jobs whose truth is a database row; the broker only rings the bell.

    queued ──claim──▶ running ──finish──▶ done
                        │  └────fail────▶ failed
                        ├─ lease expires ─▶ claimable again
                        └─ give back ─────▶ queued

A claim is one UPDATE whose WHERE names the states a job may be taken from: whoever changes one
row has the job. The owner renews the lease from a thread and every later write names its token, so
a worker that was thought dead cannot publish a second result. ``sweep_all`` rings again for rows
that wait too long or whose owner died; it runs in every worker.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection, models, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _l

from vectors.errors import _

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=settings.ARMORY_LEASE_SECONDS)
RING_AGAIN_AFTER = timedelta(seconds=10)
MAX_ATTEMPTS = 10  # deaths, not errors: an error ends the job at once
ALIVE_WITHIN = timedelta(seconds=30)
PROGRESS_EVERY = 0.5  # seconds between progress writes of one job


class LeaseLost(Exception):
    """Another worker has taken the job: stop, and touch nothing."""


class JobState(models.TextChoices):
    QUEUED = "queued", _l("waiting")
    RUNNING = "running", _l("running")
    DONE = "done", _l("done")
    FAILED = "failed", _l("failed")


class LeasedJob(models.Model):
    """A job held by a lease. Subclasses add what the job is about."""

    State = JobState
    state = models.CharField(max_length=10, choices=JobState, default=JobState.QUEUED)
    attempt = models.PositiveIntegerField(default=0)
    owner_token = models.CharField(max_length=32, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(null=True, blank=True)
    stage = models.CharField(max_length=40, blank=True)
    done_bytes = models.BigIntegerField(default=0)
    total_bytes = models.BigIntegerField(default=0)
    error = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    @property
    def ended(self) -> bool:
        return self.state in (JobState.DONE, JobState.FAILED)

    @property
    def percent(self) -> int:
        return min(100, self.done_bytes * 100 // self.total_bytes) if self.total_bytes else 0


# What a job that has ended becomes when it is to be done again.
AFRESH: dict[str, Any] = {
    "state": JobState.QUEUED,
    "attempt": 0,
    "owner_token": "",
    "lease_until": None,
    "rung_at": None,
    "stage": "",
    "done_bytes": 0,
    "total_bytes": 0,
    "error": "",
    "finished": None,
}


class WorkerBeat(models.Model):
    """One row, touched by every worker every few seconds: is anybody there?"""

    seen = models.DateTimeField()


_registry: dict[type[LeasedJob], Callable[[int], Any]] = {}
_given_up: dict[type[LeasedJob], Callable[[int], Any]] = {}


def register(
    model: type[LeasedJob],
    ring: Callable[[int], Any],
    given_up: Callable[[int], Any] = lambda _pk: None,
) -> None:
    """Let the sweep look after ``model``; ``ring(pk)`` sends the message that wakes a worker, and
    ``given_up(pk)`` is called in the transaction that ends a job whose workers died too often."""
    _registry[model], _given_up[model] = ring, given_up


def ring(job: LeasedJob) -> None:
    """Wake a worker for ``job`` once the surrounding transaction is in the database."""
    transaction.on_commit(lambda: _ring_now(type(job), job.pk))


def _ring_now(model: type[LeasedJob], pk: int) -> None:
    model._default_manager.filter(pk=pk).update(rung_at=timezone.now())
    try:
        _registry[model](pk)
    except Exception:
        # Whatever ails the broker: the row is there, the sweep rings again.
        log.warning("the broker did not take %s %s; the sweep will ring again", model.__name__, pk)


class Lease:
    """The right to work on one job, renewed by a thread until the job ends."""

    def __init__(self, model: type[LeasedJob], pk: int, token: str) -> None:
        self.model, self.pk, self.token = model, pk, token
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._last_progress = 0.0
        self._renewer = threading.Thread(target=self._renew, name=f"lease {pk}", daemon=True)

    def _mine(self) -> models.QuerySet[LeasedJob]:
        return self.model._default_manager.filter(
            pk=self.pk, owner_token=self.token, state=JobState.RUNNING
        )

    def _renew(self) -> None:
        while not self._stop.wait(LEASE.total_seconds() / 3):
            try:
                if not self._mine().update(lease_until=timezone.now() + LEASE):
                    self._lost.set()
            except DatabaseError:
                log.warning("the lease of %s %s was not renewed", self.model.__name__, self.pk)
            finally:
                connection.close()

    def __enter__(self) -> Lease:
        self._renewer.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._renewer.join()

    def check(self) -> None:
        """Raise LeaseLost when the job has been taken over."""
        if self._lost.is_set():
            raise LeaseLost

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far the job is; at most two writes a second, and a failed one is no failure."""
        self.check()
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_EVERY and done < total:
            return
        self._last_progress = now
        try:
            self._mine().update(stage=stage, done_bytes=done, total_bytes=total)
        except DatabaseError:
            log.warning("the progress of %s %s was not written", self.model.__name__, self.pk)

    def finish(self, state: str = JobState.DONE, **fields: Any) -> None:
        """End the job, if it is still ours; else raise LeaseLost so that nothing else is written.

        Call it inside the transaction that publishes the result.
        """
        changed = self._mine().update(
            state=state, finished=timezone.now(), lease_until=None, **fields
        )
        if not changed:
            raise LeaseLost

    def give_back(self) -> None:
        """Let another worker begin the job again, at once: this one is about to end."""
        self._mine().update(
            state=JobState.QUEUED, lease_until=None, rung_at=None, attempt=F("attempt") - 1
        )


def claim(model: type[LeasedJob], pk: int) -> Lease | None:
    """Take the job if it is free, by one UPDATE; None when somebody else has it or it has ended."""
    now = timezone.now()
    token = secrets.token_hex(16)
    free = Q(state=JobState.QUEUED) | Q(state=JobState.RUNNING, lease_until__lt=now)
    changed = model._default_manager.filter(free, pk=pk).update(
        state=JobState.RUNNING,
        owner_token=token,
        lease_until=now + LEASE,
        attempt=F("attempt") + 1,
    )
    return Lease(model, pk, token) if changed == 1 else None


def sweep_all() -> int:
    """Ring for waiting and orphaned jobs; end those whose workers died too often. How many rung."""
    rung = 0
    now = timezone.now()
    for model in _registry:
        waiting = Q(state=JobState.QUEUED) & (
            Q(rung_at=None, created__lt=now - RING_AGAIN_AFTER)
            | Q(rung_at__lt=now - RING_AGAIN_AFTER)
        )
        orphaned = Q(state=JobState.RUNNING, lease_until__lt=now)
        jobs = model._default_manager
        hopeless = jobs.filter(orphaned, attempt__gte=MAX_ATTEMPTS)
        for pk in hopeless.values_list("pk", flat=True):
            _give_up(model, hopeless.filter(pk=pk), pk)
        for pk in jobs.filter(waiting | orphaned).values_list("pk", flat=True)[:100]:
            _ring_now(model, pk)
            rung += 1
    return rung


def _give_up(model: type[LeasedJob], job: models.QuerySet[LeasedJob], pk: int) -> None:
    with transaction.atomic():
        changed = job.update(
            state=JobState.FAILED,
            finished=timezone.now(),
            error=_("The worker died on this job again and again, so it was given up."),
        )
        if changed:
            _given_up[model](pk)


def beat() -> None:
    """Note that a worker is alive."""
    WorkerBeat.objects.update_or_create(pk=1, defaults={"seen": timezone.now()})


def worker_alive() -> bool:
    """Whether a worker has beaten within the last half minute."""
    return WorkerBeat.objects.filter(seen__gt=timezone.now() - ALIVE_WITHIN).exists()
