"""What people take and like just now: the downloads and likes of the last seven days."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, OuterRef, Subquery, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from marketplace.models import Download
from vectors.models import Foundation, Like, Vector

DAYS = 7


def trending_key(model: type[Vector] | type[Foundation]) -> Any:
    """The score of each row of ``model``, as the database reckons it."""
    day, moment = _begin()
    kind = model.__name__.lower()
    downloads = Download.objects.filter(
        **{kind: OuterRef("pk")}, automatic=False, day__gte=day
    ).order_by()
    key = _count(downloads, kind)
    if model is Vector:
        likes = Like.objects.filter(vector=OuterRef("pk"), created__gte=moment).order_by()
        key = key + _count(likes, "vector")
    return key


def trending_score(row: object) -> int:
    """The score of one repository; 0 of what nobody counts."""
    if not isinstance(row, Vector | Foundation):
        return 0
    rows: Any = type(row)._default_manager.filter(pk=row.pk)
    return int(rows.annotate(score=trending_key(type(row))).values_list("score", flat=True)[0])


def _count(rows: Any, group: str) -> Any:
    return Coalesce(Subquery(rows.values(group).annotate(n=Count("pk")).values("n")), Value(0))


def _begin() -> tuple[date, datetime]:
    moment = timezone.now() - timedelta(days=DAYS)
    return moment.date(), moment
