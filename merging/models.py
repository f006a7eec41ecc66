"""Recipes as rows: immutable, named by their hash."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.db import models
from django.urls import reverse

from merging.build_models import Build, BuildFile, BuildState
from merging.checks.models import AbilityCheck, CoefficientSweep, Measured, VersionCheck
from merging.engine.recipe import Recipe, coefficient_text, recipe_from_json
from vectors.models import Foundation, Version

__all__ = [
    "AbilityCheck",
    "Build",
    "BuildFile",
    "BuildState",
    "CoefficientSweep",
    "ComputedHash",
    "Equip",
    "EquippedModel",
    "EquippedTerm",
    "Measured",
    "SavedLoadout",
    "VersionCheck",
]

SLUG_DIGITS = 16


class EquippedModel(models.Model):
    """A recipe and what is known of it from headers: sizes and the alignment report.

    Equal recipes are one row. ``canonical`` is the JSON whose SHA-256 is ``hash``; the address of
    the page is the hash's first digits. ``target`` is None when the target is the foundation.
    """

    hash = models.CharField(max_length=64, unique=True)
    slug = models.CharField(max_length=SLUG_DIGITS, unique=True)
    canonical = models.TextField()
    foundation = models.ForeignKey(Foundation, on_delete=models.PROTECT, related_name="equipped")
    target = models.ForeignKey(
        Version, null=True, blank=True, on_delete=models.PROTECT, related_name="equipped_on"
    )
    nbytes = models.BigIntegerField()
    report = models.JSONField()
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created = models.DateTimeField(auto_now_add=True)
    equips = models.PositiveIntegerField(default=0)

    @property
    def repo_id(self) -> str:
        return f"equipped/{self.slug}"

    @property
    def recipe(self) -> Recipe:
        return recipe_from_json(self.canonical)

    def get_absolute_url(self) -> str:
        return reverse("equipped", args=[self.slug])

    def __str__(self) -> str:
        return self.repo_id


class EquippedTerm(models.Model):
    """One vector of an equipped model, in the recipe's order."""

    equipped = models.ForeignKey(EquippedModel, on_delete=models.CASCADE, related_name="terms")
    position = models.PositiveIntegerField()
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="terms")
    coefficient = models.DecimalField(max_digits=14, decimal_places=9)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["equipped", "position"], name="term_position_once")
        ]

    @property
    def coefficient_text(self) -> str:
        return coefficient_text(Decimal(self.coefficient))

    @property
    def sign(self) -> str:
        return "−" if self.coefficient < 0 else "+"

    @property
    def magnitude(self) -> str:
        return coefficient_text(abs(Decimal(self.coefficient)))

    def __str__(self) -> str:
        return f"{self.coefficient_text} · {self.version}"


class SavedLoadout(models.Model):
    """A loadout that its owner keeps, under an address to share. It never changes: whoever goes
    on from it makes another."""

    slug = models.CharField(max_length=16, unique=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="loadouts"
    )
    name = models.CharField(max_length=80)
    query = models.TextField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created"]

    def get_absolute_url(self) -> str:
        return reverse("saved_loadout", args=[self.slug])

    def __str__(self) -> str:
        return self.name


class ComputedHash(models.Model):
    """The SHA-256 of a computed file, by the ETag that stands for its bytes until it is known."""

    etag = models.CharField(max_length=64, primary_key=True)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField()
    created = models.DateTimeField(auto_now_add=True)


class Equip(models.Model):
    """Somebody equipped a recipe: once per account (or visit) and recipe, for honest counts."""

    equipped = models.ForeignKey(EquippedModel, on_delete=models.CASCADE, related_name="history")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    visit = models.CharField(max_length=64, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["equipped", "user", "visit"], name="equip_once")
        ]
