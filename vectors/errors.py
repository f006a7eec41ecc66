"""What the services of this app refuse."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext

from vectors.tensorfile.errors import Marked, Problem, _

__all__ = ["Refusal", "_", "explain", "explain_row", "row_of"]


class Refusal(Problem):
    """A request that cannot be done; the sentence says why and what to do instead."""


def explain(problem: Problem) -> str:
    """The problem's sentence in the reader's language."""
    said = " ".join(gettext(sentence) for sentence in problem.template.split("\n"))
    params = {
        name: gettext(value) if isinstance(value, Marked) else value
        for name, value in problem.params.items()
    }
    return said % params if params else said


def row_of(problem: Problem) -> dict[str, Any]:
    """The problem as a row keeps it: the sentence untranslated, for readers of any language."""
    return {"template": problem.template, "params": problem.params}


def explain_row(row: dict[str, Any]) -> str:
    """`explain` of a problem that a row kept."""
    return explain(Problem(row["template"], **row["params"]))
