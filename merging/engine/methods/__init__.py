"""The merge methods, one file each. A new method is a new file and one line here."""

from __future__ import annotations

from merging.engine.errors import RecipeError, _

from .base import Arguments, Method, Parameter, Value
from .linear import LINEAR
from .task_arithmetic import TASK_ARITHMETIC

__all__ = ["METHODS", "Arguments", "Method", "Parameter", "Value", "get_method"]

METHODS: dict[str, Method] = {method.name: method for method in (TASK_ARITHMETIC, LINEAR)}


def get_method(name: str) -> Method:
    """The method called ``name``; raises RecipeError listing the known ones."""
    try:
        return METHODS[name]
    except KeyError:
        raise RecipeError(
            _("There is no method called %(name)s. Known methods: %(known)s."),
            name=name,
            known=", ".join(sorted(METHODS)),
        ) from None
