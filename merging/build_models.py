"""Rows of builds: a recipe's bytes written to storage, a cache of what a download computes."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _l

from vectors.leases import LeasedJob
from vectors.models import Blob


class BuildState(models.TextChoices):
    QUEUED = "queued", _l("waiting")
    RUNNING = "running", _l("running")
    DONE = "done", _l("ready")
    FAILED = "failed", _l("failed")
    CANCELLED = "cancelled", _l("stopped")
    EVICTED = "evicted", _l("made room for others")


class Build(LeasedJob):
    """The build of a recipe: at most one, and the row is the truth of it.

        queued ──▶ running ──▶ done ──▶ evicted ──▶ queued
          │        │  │ │ └──▶ failed ────────────▶ queued
          │        │  │ └────▶ cancelled ─────────▶ queued
          └────────┼──┼──────▶ cancelled
                   │  └ lease expires ─▶ claimable again
                   └─── give back ─────▶ queued

    ``cancelled`` is a wish that the worker reads as it goes. ``upload`` and ``handle`` name the
    bytes of the file that is being written, so that whoever goes on after a killed worker can drop
    them. ``total_bytes`` of a running build is room that nobody else takes. ``refusal`` is why it
    failed, where that is a Problem.
    """

    ARROWS = {
        BuildState.QUEUED: {BuildState.RUNNING, BuildState.CANCELLED},
        BuildState.RUNNING: {
            BuildState.DONE,
            BuildState.FAILED,
            BuildState.CANCELLED,
            BuildState.QUEUED,
        },
        BuildState.DONE: {BuildState.EVICTED},
        BuildState.FAILED: {BuildState.QUEUED},
        BuildState.CANCELLED: {BuildState.QUEUED},
        BuildState.EVICTED: {BuildState.QUEUED},
    }

    equipped = models.OneToOneField(
        "merging.EquippedModel", on_delete=models.CASCADE, related_name="build"
    )
    state = models.CharField(max_length=10, choices=BuildState, default=BuildState.QUEUED)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    cancelled = models.BooleanField(default=False)
    refusal = models.JSONField(default=dict, blank=True)
    upload = models.CharField(max_length=36, blank=True)
    handle = models.CharField(max_length=400, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=BuildState.values), name="build_state_known"
            ),
            models.CheckConstraint(
                condition=~Q(state=BuildState.DONE) | Q(finished__isnull=False),
                name="build_done_has_an_end",
            ),
        ]

    @property
    def ended(self) -> bool:
        return self.state not in (BuildState.QUEUED, BuildState.RUNNING)

    def __str__(self) -> str:
        return f"build of {self.equipped}"


class BuildFile(models.Model):
    """One computed file of a build, in storage.

    ``etag`` stands for recipe, path and kernel: a file that an older kernel wrote is not the one
    that is asked for. The row comes before its bytes are moved into place, so that nobody drops
    them as unreferenced; ``stored`` says that they are there.
    """

    build = models.ForeignKey(Build, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=400)
    etag = models.CharField(max_length=64)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    stored = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["build", "path"], name="build_path_once")]

    def __str__(self) -> str:
        return f"{self.path} of {self.build}"
