"""The merge methods, one file each. A new method is a new file and one line here.

A method's file is imported when the method is first asked for: a merge by one of them does not
wait for the compiled loops of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from merging.engine.errors import RecipeError, _

from .base import Arguments, Method, Parameter, Value

__all__ = ["METHODS", "Arguments", "Method", "Parameter", "Value", "get_method"]

# The name of a method: the file that declares it (as a constant of the same name, in capitals).
_FILES = {
    "task_arithmetic": "task_arithmetic",
    "linear": "linear",
    "ties": "ties",
    "dare_linear": "dare",
    "dare_ties": "dare",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs",
    "della": "della",
    "della_linear": "della",
    "sce": "sce",
    "ram": "ram",
    "ramplus_tl": "ram",
    "slerp": "slerp",
    "nuslerp": "nuslerp",
    "nuslerp_models": "nuslerp",
    "multislerp": "multislerp",
    "multislerp_models": "multislerp",
    "karcher": "karcher",
    "model_stock": "model_stock",
    "nearswap": "nearswap",
    "arcee_fusion": "arcee_fusion",
    "passthrough": "passthrough",
    "tsv": "tsv",
    "svc": "svc",
    "iso_c": "isotropic",
    "iso_cts": "isotropic",
    "consensus": "consensus",
    "knots": "knots",
    "core_space": "core_space",
    "wudi": "wudi",
}


class _Methods(Mapping[str, Method]):
    """The methods by name, in the order of the table above."""

    def __getitem__(self, name: str) -> Method:
        module = import_module(f"{__name__}.{_FILES[name]}")
        method: Method = getattr(module, name.upper())
        return method

    def __contains__(self, name: object) -> bool:
        return name in _FILES

    def __iter__(self) -> Iterator[str]:
        return iter(_FILES)

    def __len__(self) -> int:
        return len(_FILES)


METHODS: Mapping[str, Method] = _Methods()


def get_method(name: str) -> Method:
    """The method called ``name``; raises RecipeError listing the known ones."""
    if name not in METHODS:
        raise RecipeError(
            _("There is no method called %(name)s. Known methods: %(known)s."),
            name=name,
            known=", ".join(sorted(METHODS)),
        )
    return METHODS[name]
