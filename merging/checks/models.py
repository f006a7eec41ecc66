"""Rows of ability checks: jobs, and the scores they have measured."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from vectors.leases import LeasedJob
from vectors.models import Version


class Measured(models.Model):
    """What one model scored on one probe, item by item.

    ``model`` names the recipe and the programs that ran it, ``probe`` the items: who asks again,
    whatever the recipe is part of, finds the answer here.
    """

    model = models.CharField(max_length=64)
    probe = models.CharField(max_length=64)
    scores = models.JSONField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "probe"], name="measured_once")]


class CheckJob(LeasedJob):
    """What the jobs here share: who asked, whether they still want it, and the result.

    ``result`` is empty until the job is done for the first time; a job that is started again keeps
    the old one until it has a new one. ``cancelled`` is read by the worker as it goes.
    """

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    cancelled = models.BooleanField(default=False)
    result = models.JSONField(default=dict, blank=True)

    class Meta:
        abstract = True


class AbilityCheck(CheckJob):
    """The check of a recipe: what its target, each of its vectors alone, and the equipped model
    make of the probes. ``also`` are versions whose probes were asked for beside the recipe's own.
    """

    equipped = models.OneToOneField(
        "merging.EquippedModel", on_delete=models.CASCADE, related_name="check_job"
    )
    also = models.ManyToManyField(Version, blank=True, related_name="+")

    def __str__(self) -> str:
        return f"check of {self.equipped}"


class CoefficientSweep(CheckJob):
    """The same recipe at several coefficients: ``settings`` has a list of them per setting.

    Equal settings of a recipe are one sweep, known by ``key``.
    """

    equipped = models.ForeignKey(
        "merging.EquippedModel", on_delete=models.CASCADE, related_name="sweeps"
    )
    key = models.CharField(max_length=64)
    settings = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["equipped", "key"], name="sweep_once")]

    def __str__(self) -> str:
        return f"sweep of {self.equipped}"


class VersionCheck(CheckJob):
    """A published version's own probes, on its foundation with and without it.

        queued ─▶ running ─▶ done
          ▲         └──────▶ failed
          ├── measure again ───┤  (owner or staff; also where a part of ``done`` is missing)
          └── by itself ───────┘  (``refusal`` is empty, and not more than a few ``retries``)

    The numbers go to ``version.abilities``, beside what the card claims. ``refusal`` is set where
    the version itself is why it failed: to ask it again would fail again. Where it is empty the
    machine was (a killed program, lost workers), and time may help. ``retries`` counts what was
    tried by itself since somebody last asked.
    """

    version = models.OneToOneField(Version, on_delete=models.CASCADE, related_name="check_job")
    refusal = models.JSONField(default=dict, blank=True)
    retries = models.PositiveSmallIntegerField(default=0)

    def __str__(self) -> str:
        return f"check of {self.version}"
