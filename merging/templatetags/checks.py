"""Checks on pages that show vectors: which of them were verified in company."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django import template
from django.urls import reverse

from merging.checks.models import AbilityCheck
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
    closed = Version.objects.exclude(
        state=Version.State.PUBLISHED,
        vector__visibility=Visibility.PUBLIC,
        vector__access=Access.OPEN,
    )
    found = (
        AbilityCheck.objects.filter(result__together=True)
        .exclude(equipped__terms__version__in=closed.values("pk"))
        .exclude(equipped__target__in=closed.values("pk"))
        .filter(equipped__terms__version__in=versions)
        .order_by("pk")
        .values_list("equipped__terms__version", "equipped__slug")
    )
    return {version: reverse("equipped", args=[slug]) for version, slug in found}


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
