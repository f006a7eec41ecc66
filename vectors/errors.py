"""What the services of this app refuse."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext

from vectors.tensorfile.errors import Problem, _

__all__ = ["Refusal", "_", "explain"]


class Refusal(Problem):
    """A request that cannot be done; the sentence says why and what to do instead."""


def explain(problem: Problem) -> str:
    """The problem's sentence in the reader's language."""
    template: str = gettext(problem.template)
    params: dict[str, Any] = problem.params
    return template % params if params else template
