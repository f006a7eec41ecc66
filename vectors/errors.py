"""What the services of this app refuse."""

from __future__ import annotations

from django.utils.translation import gettext

from vectors.tensorfile.errors import Marked, Problem, _

__all__ = ["Refusal", "_", "explain"]


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
