"""How merging works: the lecture's neuron and its three operations, to be played with."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext_noop
from django.views.decorators.http import require_safe

from merging.formula import target_part, term_part
from merging.loadout import Analogy, Loadout, Slot, number
from merging.neuron import EXAMPLES, merge_neuron
from vectors.models import Vector

TITLES = {
    "works": gettext_noop("When it works: few weights, and different ones"),
    "fails": gettext_noop("When it does not: everybody changes everything"),
}
# Operations on vectors of the demo catalogue; shown where they are on the shelves.
OPERATIONS = (
    (
        "addition",
        Loadout(slots=(Slot("ann/wordnet-topics"), Slot("ann/spam-filter"))),
    ),
    ("subtraction", Loadout(slots=(Slot("bo/movie-mood", number("-1")),))),
    (
        "analogy",
        Loadout(
            analogy=Analogy("chen/topic-y-en", "chen/topic-x-fr", "chen/topic-x-en", number("0.5"))
        ),
    ),
)


@require_safe
def lecture(request: HttpRequest) -> HttpResponse:
    """The page; its sliders ask it again with other coefficients."""
    coefficients = [number(request.GET.get(key, "")) for key in ("a", "b")]
    coefficients = [max(min(each, number("2")), number("-2")) for each in coefficients]
    neurons = [
        {
            "title": TITLES[key],
            "example": example,
            "result": merge_neuron(example, coefficients),
        }
        for key, example in EXAMPLES.items()
    ]
    context = {
        "neurons": neurons,
        "a": coefficients[0],
        "b": coefficients[1],
        "operations": [found for each in OPERATIONS if (found := _operation(*each))],
    }
    return render(request, "merging/lecture.html", context)


def _operation(key: str, state: Loadout) -> dict[str, Any] | None:
    """An operation with its vectors; None where one of them is not on the shelves."""
    named = state.terms()
    vectors = {
        vector.repo_id: vector
        for vector in Vector.objects.published()
        .for_cards()
        .filter(name__in=[name.partition("/")[2] for name, _coefficient in named])
    }
    if any(name not in vectors for name, _coefficient in named):
        return None
    parts = [
        target_part(vectors[named[0][0]].foundation),
        *(term_part(coefficient, vectors[name]) for name, coefficient in named),
    ]
    return {"key": key, "parts": parts, "url": f"{reverse('loadout')}?{state.query()}"}
