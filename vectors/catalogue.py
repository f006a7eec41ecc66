"""The catalogue's question, as its address says it: words, facets, order, page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.conf.locale import LANG_INFO
from django.core.paginator import Page, Paginator
from django.db.models import Count, Q
from django.http import QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from vectors.models import Form, Foundation, Vector
from vectors.querysets import SIZES, SORTS, VectorQuerySet
from vectors.task_names import task_name

PAGE_SIZE = 24
GROUP_SIZE = 8
FACETS = ("foundation", "task", "language", "license", "form", "size")
TITLES = {
    "foundation": _("Foundation"),
    "task": _("Task"),
    "language": _("Language"),
    "license": _("Licence"),
    "form": _("Form"),
    "size": _("Size"),
}
SIZE_TITLES = {"small": _("under 10 MB"), "medium": _("10 MB – 1 GB"), "large": _("over 1 GB")}
SORT_TITLES = {
    "new": _("Newest"),
    "equipped": _("Most equipped"),
    "downloaded": _("Most downloaded"),
    "liked": _("Most liked"),
}


@dataclass(frozen=True)
class CatalogueQuery:
    """What is asked of the catalogue; the same for the page and for the API."""

    words: str = ""
    sort: str = "new"
    chosen: Mapping[str, str] = field(default_factory=dict)
    page: int = 1

    @classmethod
    def from_get(cls, get: QueryDict) -> CatalogueQuery:
        """Read an address; what makes no sense counts as not said."""
        page = get.get("page", "1")
        sort = get.get("sort", "new")
        return cls(
            words=get.get("q", "").strip()[:200],
            sort=sort if sort in SORTS else "new",
            chosen={name: get.get(name, "")[:120] for name in FACETS if get.get(name)},
            page=int(page) if page.isdigit() and len(page) < 7 else 1,
        )

    @property
    def narrowed(self) -> bool:
        """Whether anything at all is asked: then the result is a list, not the shelves."""
        return bool(self.words or self.chosen or self.page > 1)

    def url(self, **changes: str | int | None) -> str:
        """The address of this question with some parts changed (None drops one)."""
        parts: dict[str, Any] = {"q": self.words, **self.chosen}
        if self.sort != "new":
            parts["sort"] = self.sort
        if self.page > 1:
            parts["page"] = self.page
        if "page" not in changes:
            parts.pop("page", None)
        parts.update(changes)
        query = urlencode({key: value for key, value in parts.items() if value})
        return f"?{query}" if query else "?"

    def results(self, *, without: str = "") -> VectorQuerySet:
        """The vectors that answer, unsorted; ``without`` leaves one facet out (for its counts)."""
        found = Vector.objects.published().matching(self.words)
        for name, value in self.chosen.items():
            if name != without:
                found = found.facet(name, value)
        return found

    def page_of_results(self) -> Page[Vector]:
        """One page of cards."""
        ordered = self.results().for_cards().sorted_by(self.sort)
        return Paginator(ordered, PAGE_SIZE).get_page(self.page)

    def sorts(self) -> list[dict[str, Any]]:
        """The orders on offer, with their addresses."""
        return [
            {"title": SORT_TITLES[name], "url": self.url(sort=name), "current": name == self.sort}
            for name in SORTS
        ]

    def facets(self) -> list[dict[str, Any]]:
        """Every facet with its values, counted over what the other facets leave."""
        groups = []
        for name in FACETS:
            counts = self._counts(name)
            labels = _foundation_labels() if name == "foundation" else {}
            current = self.chosen.get(name)
            if current and current not in dict(counts):
                counts.append((current, 0))
            options = [
                {
                    "value": value,
                    "label": labels.get(value) or facet_label(name, value),
                    "count": count,
                    "url": self.url(**{name: None if value == current else value}),
                    "selected": value == current,
                }
                for value, count in counts
                if value
            ]
            if len(options) > 1 or current:
                groups.append(
                    {
                        "name": name,
                        "title": TITLES[name],
                        "options": options,
                        "clear_url": self.url(**{name: None}) if current else "",
                    }
                )
        return groups

    def _counts(self, name: str) -> list[tuple[str, int]]:
        found = self.results(without=name)
        if name == "foundation":
            rows = found.values_list("foundation__namespace", "foundation__name")
            counted = rows.annotate(count=Count("pk")).order_by()
            return _busiest((f"{space}/{short}", count) for space, short, count in counted)
        if name == "language":
            tally: Counter[str] = Counter()
            for codes, count in found.values_list("languages").annotate(c=Count("pk")).order_by():
                for code in codes.split():
                    tally[code] += count
            return _busiest(tally.items())
        if name == "size":
            sizes = {
                key: Count("pk", filter=Q(current__nbytes__gte=low, current__nbytes__lt=high))
                for key, (low, high) in SIZES.items()
            }
            return [(key, count) for key, count in found.aggregate(**sizes).items() if count]
        column = {"task": "pipeline_tag", "license": "license", "form": "current__form"}[name]
        return _busiest(found.values_list(column).annotate(c=Count("pk")).order_by())


def _busiest(rows: Iterable[tuple[str, int]], limit: int = 12) -> list[tuple[str, int]]:
    return sorted(((value, count) for value, count in rows if value), key=lambda r: (-r[1], r[0]))[
        :limit
    ]


def _foundation_labels() -> dict[str, str]:
    rows = Foundation.objects.only("namespace", "name", "title")
    return {foundation.repo_id: foundation.label for foundation in rows}


def facet_label(name: str, value: str) -> Any:
    """How a facet's value is shown."""
    if name == "language":
        return language_name(value)
    if name == "size":
        return SIZE_TITLES.get(value, value)
    if name == "form":
        return dict(Form.choices).get(value, value)
    if name == "task":
        return task_name(value)
    return value


def language_name(code: str) -> str:
    """A language in the reader's own: ``French``; the code itself where nobody has named it."""
    if code == "zh":
        return gettext("Chinese")
    info = LANG_INFO.get(code)
    return gettext(info["name"]) if info and "name" in info else code


def shelves(sort: str = "new") -> list[dict[str, Any]]:
    """The catalogue grouped by foundation: each with its count and its first cards."""
    groups = []
    for foundation in Foundation.objects.with_counts().defer("manifest", "card", "card_html"):
        count = foundation.vector_count  # type: ignore[attr-defined]
        if count:
            cards = Vector.objects.published().filter(foundation=foundation)
            groups.append(
                {
                    "foundation": foundation,
                    "count": count,
                    "vectors": list(cards.first_cards(sort, GROUP_SIZE)),
                    "more": count > GROUP_SIZE,
                }
            )
    return groups
