"""Checks on pages that show vectors: which were verified in company, what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django import template
from django.db.models import Exists, OuterRef, Q
from django.urls import reverse

from merging.check_context import standing_of
from merging.checks.models import AbilityCheck, VersionCheck
from merging.checks.services import may_measure_again
from merging.models import EquippedTerm
from vectors.models import Access, Vector, Version, Visibility

register = template.Library()


@register.simple_tag
def verified_together(*shown: Iterable[Any]) -> dict[int, str]:
    """By version, the page of a recipe whose check says that it goes together with others.

    ``shown`` are vectors, versions, or shelves and lists of them; whatever it holds, this is one
    question. Only recipes count of which everybody may know every part.
    """
    versions = set(_versions(shown))
    if not versions:
        return {}
    # Asked of the few recipes that were found: a list of all that is closed grows with the shop.
    hidden = EquippedTerm.objects.filter(equipped=OuterRef("equipped")).exclude(**_open("version"))
    found = (
        AbilityCheck.objects.filter(result__together=True)
        .filter(Q(equipped__target=None) | Q(**_open("equipped__target")))
        .filter(~Exists(hidden), equipped__terms__version__in=versions)
        .order_by("pk")
        .values_list("equipped__terms__version", "equipped__slug")
    )
    return {version: reverse("equipped", args=[slug]) for version, slug in found}


@register.simple_tag
def measurement_of(version: Version, user: Any) -> dict[str, Any]:
    """How the measurement of a version that it came with stands, where it is not simply there; for
    who may repeat it, and empty for everybody else."""
    if not may_measure_again(user, version) or version.state != Version.State.PUBLISHED:
        return {}
    job = VersionCheck.objects.filter(version=version).first()
    if job is None:
        return {}
    job.version = version
    return standing_of(job)


def _open(version: str) -> dict[str, str]:
    """What is true of a version, by the lookup that leads to it, that everybody may know of."""
    return {
        f"{version}__state": Version.State.PUBLISHED,
        f"{version}__vector__visibility": Visibility.PUBLIC,
        f"{version}__vector__access": Access.OPEN,
    }


@register.filter
def of_version(found: Any, version: int) -> str:
    """The address that ``verified_together`` has for a version."""
    return str(found.get(version, "")) if isinstance(found, dict) else ""


def _versions(shown: Iterable[Any]) -> Iterator[int]:
    for each in shown:
        if isinstance(each, Version):
            yield each.pk
        elif isinstance(each, Vector):
            if each.current_id is not None:
                yield each.current_id
        elif isinstance(each, dict):  # a shelf
            yield from _versions(each["vectors"])
        else:
            yield from _versions(each)
