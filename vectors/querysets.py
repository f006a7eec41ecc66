"""Reads: what the catalogue, the pages and the API ask of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Count, F, Q, QuerySet

from vectors import search

if TYPE_CHECKING:
    from vectors.models import Foundation, Vector, Version  # noqa: F401

SORTS = {
    "new": ("-created", "-pk"),
    "equipped": ("-equips", "-created", "-pk"),
    "downloaded": ("-downloads", "-created", "-pk"),
    "liked": ("-likes", "-created", "-pk"),
}
# Upper bounds of the size facet, in bytes.
SIZES = {
    "small": (0, 10 * 10**6),
    "medium": (10 * 10**6, 10**9),
    "large": (10**9, 2**62),
}


class FoundationQuerySet(models.QuerySet["Foundation"]):
    def with_counts(self) -> FoundationQuerySet:
        """Each with ``vector_count``, the number of its published vectors; busiest first."""
        return self.annotate(
            vector_count=Count(
                "vectors",
                filter=Q(vectors__current__state="published", vectors__visibility="public"),
            )
        ).order_by("-vector_count", "namespace", "name")

    def by_repo_id(self, repo_id: str) -> FoundationQuerySet:
        namespace, _slash, name = repo_id.partition("/")
        return self.filter(namespace=namespace, name=name)


class VectorQuerySet(models.QuerySet["Vector"]):
    def published(self) -> VectorQuerySet:
        """What everybody finds: on the shelves, and not private."""
        return self.filter(current__state="published", visibility="public")

    def visible_to(self, user: Any) -> VectorQuerySet:
        """The published ones and, of one's own and those one has a grant for, the private too, and
        those that were withdrawn since."""
        everybody = Q(current__state="published", visibility="public")
        if not user.is_authenticated:
            return self.filter(everybody)
        granted = Q(current__state="published", pk__in=user.grants.values("vector"))
        kept = user.grants.filter(created__lte=F("vector__current__withdrawn")).values("vector")
        withdrawn = Q(current__state="withdrawn", pk__in=kept)
        own = Q(owner=user, current__isnull=False)
        return self.filter(everybody | own | granted | withdrawn)

    def usable_by(self, user: Any) -> VectorQuerySet:
        """Those on the shelves that ``user`` may read and equip."""
        open_to_all = Q(visibility="public", access="open")
        if not user.is_authenticated:
            return self.filter(open_to_all, current__state="published")
        own = Q(owner=user) | Q(pk__in=user.grants.values("vector"))
        return self.filter(open_to_all | own, current__state="published")

    def for_cards(self) -> VectorQuerySet:
        """With everything a card shows, in one query."""
        return self.select_related("foundation", "current", "cover").defer(
            "card",
            "card_html",
            "search_text",
            "foundation__manifest",
            "foundation__card",
            "foundation__card_html",
            "foundation__search_text",
            "current__card",
        )

    def by_repo_id(self, repo_id: str) -> VectorQuerySet:
        namespace, _slash, name = repo_id.partition("/")
        return self.filter(namespace=namespace, name=name)

    def called(self, repo_id: str) -> VectorQuerySet:
        """The one of that id, now or before it was renamed. There are no two ids that differ in
        their case alone, so that it does not matter here, as it does not on pages."""
        namespace, _slash, name = repo_id.partition("/")
        before = {"former_names__namespace__iexact": namespace, "former_names__name__iexact": name}
        renamed = self.model._default_manager.filter(**before).values("pk")
        return self.filter(Q(namespace__iexact=namespace, name__iexact=name) | Q(pk__in=renamed))

    def matching(self, query: str) -> VectorQuerySet:
        """Those that contain every word of ``query``; an empty query filters nothing."""
        ids = search.matching_ids(query)
        return self if ids is None else self.filter(pk__in=ids)

    def facet(self, name: str, value: str) -> VectorQuerySet:
        """Narrow by one facet; an unknown value finds nothing."""
        if name == "foundation":
            namespace, _slash, short = value.partition("/")
            return self.filter(foundation__namespace=namespace, foundation__name=short)
        if name == "task":
            return self.filter(pipeline_tag=value)
        if name == "language":
            return self.filter(languages__contains=f" {value} ")
        if name == "license":
            return self.filter(license=value)
        if name == "form":
            return self.filter(current__form=value)
        if name == "size":
            low, high = SIZES.get(value, (1, 0))
            return self.filter(current__nbytes__gte=low, current__nbytes__lt=high)
        raise ValueError(name)

    def sorted_by(self, sort: str) -> QuerySet[Any]:
        return self.order_by(*SORTS.get(sort, SORTS["new"]))

    def first_cards(self, sort: str, many: int) -> QuerySet[Any]:
        """The first ``many`` of an order, with everything a card shows, in one query.

        Sorted are numbers alone: to sort whole cards takes ten times as long in a large shop.
        """
        first = self.sorted_by(sort).values("pk")[:many]
        return self.model.objects.filter(pk__in=first).for_cards().sorted_by(sort)


class VersionQuerySet(models.QuerySet["Version"]):
    def published(self) -> VersionQuerySet:
        """Every version on the shelves, of private vectors too."""
        return self.filter(state="published")

    def public(self) -> VersionQuerySet:
        """The versions on the shelves that everybody may hear of."""
        return self.filter(state="published", vector__visibility="public")

    def drafts_of(self, user: Any) -> VersionQuerySet:
        """Unfinished uploads of ``user``, newest first."""
        return self.filter(
            owner=user, state__in=["uploading", "received", "inspecting", "ready", "refused"]
        ).order_by("-created")
