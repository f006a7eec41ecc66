"""Rows of the site itself: access tokens, sign-ins from devices, downloads counted."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from vectors.models import Foundation, Vector

__all__ = ["AccessToken", "DeviceLogin", "Download"]


class Scope(models.TextChoices):
    READ = "read", _("read")
    WRITE = "write", _("read and write")


class AccessToken(models.Model):
    """What a program shows in place of a password. Only its SHA-256 is kept.

    ``hint`` is its last four characters, by which its owner tells it from others.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_tokens"
    )
    name = models.CharField(max_length=80)
    scope = models.CharField(max_length=5, choices=Scope, default=Scope.READ)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=4)
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True)
    revoked = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return f"{self.name} (…{self.hint})"


class DeviceLogin(models.Model):
    """A sign-in that began on a device without a browser (RFC 8628).

        pending ─approve─▶ approved ─token fetched─▶ used
           └────refuse───▶ refused

    Codes are kept as their SHA-256 (the device's) and as they are typed (the user's).
    """

    class State(models.TextChoices):
        PENDING = "pending", _("waiting for approval")
        APPROVED = "approved", _("approved")
        REFUSED = "refused", _("refused")
        USED = "used", _("used")

    device_digest = models.CharField(max_length=64, unique=True)
    user_code = models.CharField(max_length=16, unique=True)
    client = models.CharField(max_length=120, blank=True)
    scope = models.CharField(max_length=5, choices=Scope, default=Scope.WRITE)
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    polled = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField()


class Download(models.Model):
    """A file of weights read to its last byte: once per reader, commit and day.

    ``reader`` is an account or, for those without one, a keyed hash of the address.
    """

    vector = models.ForeignKey(
        Vector, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    foundation = models.ForeignKey(
        Foundation, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    commit = models.CharField(max_length=40)
    reader = models.CharField(max_length=64)
    day = models.DateField()
    automatic = models.BooleanField(default=False)  # continuous integration says so of itself

    class Meta:
        indexes = [models.Index(fields=["day"], name="download_day")]
        constraints = [
            models.UniqueConstraint(fields=["commit", "reader", "day"], name="download_once"),
            models.CheckConstraint(
                condition=Q(vector__isnull=False, foundation__isnull=True)
                | Q(vector__isnull=True, foundation__isnull=False),
                name="download_of_one_thing",
            ),
        ]
