"""Parameters at the places where mergekit's YAML has them: the innermost that speaks counts.

A model's (or a slice's source's) own parameters go before the slice's, those before the module's,
those before the file's. A list of filters that says nothing of a tensor asks the next place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeVar

from .errors import RecipeError, _
from .methods import Method, Parameter
from .recipe import WEIGHT, parse_coefficient
from .settings import is_constant

T = TypeVar("T")
# In a file a weight has no default: models that match none of its filters have none.
_WEIGHT = Parameter(WEIGHT.name, float, None, WEIGHT.help, WEIGHT.minimum, WEIGHT.maximum)


@dataclass(frozen=True)
class Scope:
    """The parameters of one place, as written, their names checked."""

    place: str
    values: Mapping[str, Any]


def read_scope(raw: Any, place: str, method: Method, kind: Literal["recipe", "term"]) -> Scope:
    """The parameters at ``place``. Raises RecipeError that names a key nobody knows there."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise RecipeError(_("`%(place)s` must be a mapping."), place=place)
    values = {}
    for name, value in raw.items():
        where = f"{place}.{str(name)[:80]}"
        declared = method.parameter(name) if isinstance(name, str) else None
        if name == WEIGHT.name and declared is None:
            if not method.weighted:
                raise RecipeError(
                    _("`%(place)s`: the method %(method)s finds the weights itself: leave it out."),
                    place=where,
                    method=method.name,
                )
            values[name] = value
            continue
        if declared is None:
            raise RecipeError(
                _("`%(place)s`: the method %(method)s has no such parameter. It takes: %(known)s."),
                place=where,
                method=method.name,
                known=", ".join(_known(method, kind)) or "none",
            )
        if kind == "term" and declared.scope != "term" and not declared.ignored:
            raise RecipeError(
                _(
                    "`%(place)s`: a model cannot have its own `%(name)s`. Write it once, under "
                    "`parameters`."
                ),
                place=where,
                name=name,
            )
        value = _as_booleans(value) if declared.type is bool else value
        if not (declared.required and _is_open(value)):  # an outer place may complete it
            checked(where, partial(declared.read, value))
        if not declared.ignored:
            values[name] = value
    return Scope(place, values)


def _known(method: Method, kind: str) -> list[str]:
    names = [WEIGHT.name] if method.weighted else []
    names += [p.name for p in method.parameters if kind == "recipe" or p.scope == "term"]
    return sorted(names)


def parameters_of(scopes: Sequence[Scope], method: Method) -> dict[str, Any]:
    """Settings of all names but ``weight`` that ``scopes`` (innermost first) give for a recipe."""
    names = {name for scope in scopes for name in scope.values} - _weight_names(method)
    return {name: layered(scopes, name) for name in sorted(names)}


def own_parameters(scopes: Sequence[Scope], method: Method) -> dict[str, Any]:
    """Settings that the innermost of ``scopes`` gives a model, completed by the others."""
    names = set(scopes[0].values) - _weight_names(method)
    return {name: layered(scopes, name) for name in sorted(names)}


def _weight_names(method: Method) -> set[str]:
    return {WEIGHT.name} if method.parameter(WEIGHT.name) is None else set()


def weight_of(scopes: Sequence[Scope], label: str) -> tuple[Decimal, dict[str, Any]]:
    """Weight of a model, and its schedule where it has one. Raises RecipeError without any."""
    speaking = [scope for scope in scopes if WEIGHT.name in scope.values]
    if not speaking:
        raise RecipeError(_("%(model)s has no `weight`."), model=label)
    raw = layered(scopes, WEIGHT.name)
    place = f"{speaking[0].place}.{WEIGHT.name}"
    if not isinstance(raw, list | dict):
        return checked(place, lambda: parse_coefficient(raw)), {}
    setting = checked(place, lambda: _WEIGHT.read(raw))
    if is_constant(setting):
        return parse_coefficient(setting), {}
    return Decimal(1), {WEIGHT.name: setting}


def layered(scopes: Sequence[Scope], name: str) -> Any:
    """The setting of ``name``: the first scope's, and where its filters end, the next one's."""
    found: list[Any] = []
    for scope in scopes:
        if name not in scope.values:
            continue
        raw = scope.values[name]
        if not found and not _is_open(raw):
            return raw
        # A gradient is one value: its numbers are no conditions.
        items = raw if _has_filters(raw) else [raw]
        found += [item if isinstance(item, dict) else {"value": item} for item in items]
        if not _is_open(raw):
            break
    return found


def _has_filters(raw: Any) -> bool:
    return isinstance(raw, list) and any(isinstance(item, dict) for item in raw)


def _is_open(raw: Any) -> bool:
    """Whether there are tensors that ``raw`` says nothing of."""
    last = raw[-1] if _has_filters(raw) else raw
    return isinstance(last, dict) and last.get("filter") not in (None, "*")


def _as_booleans(raw: Any, depth: int = 0) -> Any:
    """``raw`` with the numbers 1 and 0 as true and false, as mergekit reads them."""
    # No setting is deeper, but a few aliases of aliases spell thousands of millions of items.
    if isinstance(raw, list) and depth < 3:
        return [_as_booleans(item, depth + 1) for item in raw]
    if isinstance(raw, dict) and "value" in raw and depth < 2:
        return {**raw, "value": _as_booleans(raw["value"], depth + 1)}
    return bool(raw) if isinstance(raw, int | float) and raw in (0, 1) else raw


def checked(place: str, read: Callable[[], T]) -> T:
    """What ``read()`` returns; its RecipeError names ``place``."""
    try:
        return read()
    except RecipeError as error:
        params = {**error.params, "place": place}
        raise RecipeError(f"`%(place)s`:\n{error.template}", **params) from error
