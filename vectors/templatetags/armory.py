"""From rows to what the partial templates show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from vectors.intervals import wilson
from vectors.models import Access, Vector, Version, Visibility
from vectors.task_names import task_name

register = template.Library()
register.filter(task_name)
_TICKED = re.compile(r"`([^`]+)`")


@register.filter
def size(count: int | None) -> str:
    """Bytes as people say them, in decimal units: ``374 kB``, ``90.9 MB``."""
    value = float(count or 0)
    if value < 1000:
        return ngettext("%(n)d byte", "%(n)d bytes", int(value)) % {"n": value}
    units = ["kB", "MB", "GB", "TB"]
    value /= 1000
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "kB" else f"{value:.1f} {units[0]}"


@register.filter
def count(number: int | None) -> str:
    """A parameter count: ``22.7 M``, ``7.0 B``."""
    value = float(number or 0)
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f}"


@register.filter
def percent(share: float | None) -> str:
    """A share as a percentage with two significant digits: ``0.24 %``, ``14 %``."""
    if share is None:
        return ""
    value = share * 100
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{value:.{digits}f} %"


@register.filter
def drawn(svg: str) -> SafeString:
    """An SVG drawn by ``vectors.drawing`` from numbers: nothing of it comes from a user."""
    return mark_safe(svg)


@register.filter
def license_name(text: str) -> str:
    """The licence, or that nobody stated one."""
    return text or _("licence not stated")


@register.filter
def three(number: float | None) -> str:
    """A measured share with three digits: ``0.925``."""
    return "–" if number is None else f"{number:.3f}"


@register.filter
def signed(number: float) -> str:
    """A number from −1 to 1 with its sign: ``+0.31``, ``−0.02``."""
    return f"{number:+.2f}".replace("-", "−")


@register.filter
def as_term(number: float) -> str:
    """A coefficient inside of a sum: ``+ 0.5``, ``− 1``."""
    return f"{'−' if number < 0 else '+'} {abs(number):g}"


@register.filter
def as_written(number: float) -> str:
    """A number for a form's field, whatever the language: ``1``, ``0.7``."""
    return f"{number:g}"


@register.filter
def ticked(text: str) -> SafeString:
    """A sentence with its `names` set as code."""
    return mark_safe(_TICKED.sub(r"<code>\1</code>", conditional_escape(text)))


@register.filter
def access_mark(vector: Vector) -> str:
    """In a word or two why not everybody may equip it; empty where everybody may."""
    if vector.visibility == Visibility.PRIVATE:
        return _("private")
    if vector.access == Access.PAID:
        return _("for sale")
    return "" if vector.access == Access.OPEN else _("on request")


@register.simple_tag
def vector_card(vector: Vector) -> dict[str, Any]:
    """The variables of ``partials/vector_card.html``."""
    version = vector.current
    assert version is not None
    best = next((row for row in ability_rows(version) if row["x1"] is not None), None)
    cover = vector.cover_small_id
    return {
        "version": version.pk,
        "url": vector.get_absolute_url(),
        "title": vector.label,
        "cover_url": reverse("cover", args=[cover]) if cover else "",
        "sigil": drawn(version.sigil),
        "foundation": vector.foundation.label,
        "form": version.get_form_display(),
        "size": size(version.nbytes),
        "licence": license_name(vector.license),
        "mark": _("withdrawn") if version.state == Version.State.WITHDRAWN else access_mark(vector),
        "ability": best,
        "owner": vector.namespace,
        "owner_url": reverse("profile", args=[vector.namespace]),
        "likes": vector.likes,
        "equips": vector.equips,
        "downloads": vector.downloads,
    }


@register.simple_tag(name="ability_rows")
def ability_rows_tag(version: Version) -> list[dict[str, Any]]:
    return ability_rows(version)


def ability_rows(version: Version) -> list[dict[str, Any]]:
    """The abilities a card states, for ``partials/ability_table.html``, and under each what was
    measured here; intervals are Wilson's."""
    rows = []
    for ability in version.abilities:
        if ability.get("claimed", True):
            rows.append(_ability_row(ability))
        if ability.get("measured"):
            measured = {"name": ability.get("name"), **ability["measured"]}
            rows.append({**_ability_row(measured), "measured": True})
    return rows


@register.filter
def measured_here(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of ``ability_rows`` was measured by this site."""
    return any(row["measured"] for row in rows)


def _ability_row(ability: Mapping[str, Any]) -> dict[str, Any]:
    before, after, n = ability.get("without"), ability.get("with"), ability.get("n")
    known = before is not None and after is not None
    change = after - before if before is not None and after is not None else 0.0
    row: dict[str, Any] = {
        "name": ability.get("name") or "",
        "metric": ability.get("metric") or "",
        "without": three(before),
        "with_": three(after),
        "n": n or "",
        "delta": f"{change:+.3f}".replace("-", "−") if known else "",
        "kind": "learn" if change > 0 else "forget" if change < 0 else "same",
        "x0": None,
        "x1": None,
        "measured": False,
    }
    if before is None or after is None or not (0 <= before <= 1 and 0 <= after <= 1):
        return row
    row |= {"x0": round(before * 100, 1), "x1": round(after * 100, 1)}
    if n and n > 0:
        low, high = ability.get("low"), ability.get("high")
        if low is None or high is None:
            low, high = wilson(after, n)
        row |= {
            "interval": f"{low:.2f}–{high:.2f}",
            "low": round(low * 100, 1),
            "high": round(high * 100, 1),
        }
    return row


@register.simple_tag
def layer_bars(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Strength ‖τ‖/‖θ‖ per layer for ``partials/layer_strip.html``."""
    strongest = max((float(row["ratio"]) for row in layers), default=0.0) or 1.0
    return [
        {
            "share": round(100 * float(row["ratio"]) / strongest, 1),
            "label": f"{row['label']}: {float(row['ratio']):.4f}",
        }
        for row in layers
    ]


@register.simple_tag
def formula_chips(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Formula parts with the sigils of their vectors, for ``partials/formula.html``."""
    chips = []
    for part in parts:
        vector = part.get("vector")
        version = part.get("version") or (vector.current if vector else None)
        chips.append({**part, "sigil": drawn(version.sigil) if version else ""})
    return chips


@register.simple_tag
def file_list(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Files with their sizes in words, for ``partials/files_table.html``."""
    return [{**file, "size": size(file["size"])} for file in files]


@register.simple_tag
def wizard_steps(step: str) -> list[dict[str, str]]:
    """The upload wizard's steps for ``partials/steps.html``."""
    labels = {
        "files": _("Files"),
        "foundation": _("Foundation"),
        "inspection": _("Inspection"),
        "publish": _("Publish"),
    }
    at = list(labels).index(step)
    return [
        {"label": label, "state": "done" if i < at else "now" if i == at else "next"}
        for i, label in enumerate(labels.values())
    ]
