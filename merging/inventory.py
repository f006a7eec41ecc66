"""The vectors a loadout can take: those that fit, as many as one looks through, found by words;
and some that do not fit, with the reason.

What was searched for is no part of the loadout: a link to it does not say what its maker looked
for meanwhile.
"""

from __future__ import annotations

from typing import Any

from django.http import QueryDict

from merging.loadout import Loadout
from vectors.errors import _, explain
from vectors.models import Foundation, Vector
from vectors.querysets import VectorQuerySet
from vectors.tensorfile.errors import Problem

INVENTORY = 60
UNFIT = 12
# Of a version the list shows the sigil alone: the rest of sixty cards takes longer to read.
UNSHOWN = [
    f"current__{name}"
    for name in ("layers", "verdict", "abilities", "examples", "draft", "refusal")
]


def words_of(query: QueryDict) -> str:
    """What the inventory is searched for."""
    return query.get("q", "").strip()[:100]


def inventory_of(
    state: Loadout, foundation: Foundation | None, user: Any, words: str
) -> dict[str, Any]:
    """What ``merging/_inventory_list.html`` shows: of the ``found`` vectors that fit, have the
    words and are not in the loadout yet, the most equipped.

    The number of queries does not depend on how many there are.
    """
    matching = Vector.objects.visible_to(user).matching(words)
    here = _of(foundation, matching)
    for slot in state.slots:
        namespace, _slash, name = slot.name.partition("@")[0].partition("/")
        here = here.exclude(namespace=namespace, name=name)
    first = list(here.first_cards("equipped", INVENTORY).defer(*UNSHOWN))
    found = here.count()
    return {
        "foundation": foundation,
        "words": words,
        "query": state.query(),
        "found": found,
        "inventory": first,
        "more": found - len(first),
        "taken": bool(state.slots),
        "unfit": _unfit(matching, foundation),
    }


def analogy_choices(state: Loadout, foundation: Foundation | None, user: Any) -> dict[str, str]:
    """Labels by name for the analogy's three places: whatever the inventory is searched for, and
    what is chosen already, too."""
    here = _of(foundation, Vector.objects.visible_to(user)).sorted_by("equipped")
    names = here.values_list("namespace", "name", "title")[:INVENTORY]
    choices = {f"{namespace}/{name}": title or name for namespace, name, title in names}
    for chosen in (state.analogy.c, state.analogy.b, state.analogy.a):
        if chosen:
            choices.setdefault(chosen, chosen)
    return choices


def unfit(its: Foundation | None, wanted: Foundation) -> str:
    """Why a vector of ``its`` cannot be put on ``wanted``."""
    return explain(
        Problem(
            _("For %(its)s: it does not fit %(wanted)s."),
            its=its.label if its else "?",
            wanted=wanted.label,
        )
    )


def _of(foundation: Foundation | None, vectors: VectorQuerySet) -> VectorQuerySet:
    return vectors.filter(foundation=foundation) if foundation else vectors


def _unfit(matching: VectorQuerySet, foundation: Foundation | None) -> list[tuple[Vector, str]]:
    if foundation is None:
        return []
    others = matching.exclude(foundation=foundation).first_cards("equipped", UNFIT)
    others = others.defer(*UNSHOWN)
    return [(each, unfit(each.foundation, foundation)) for each in others]
