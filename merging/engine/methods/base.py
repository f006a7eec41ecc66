"""What a merge method declares: its parameters, once, and one function on blocks of numbers.

The command's flags, the form, the API schema and the documentation derive from the declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from merging.engine.errors import RecipeError, _

if TYPE_CHECKING:
    from merging.engine.block import Block

Value = float | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, for the whole recipe. ``name`` is mergekit's where it has one."""

    name: str
    type: type[float] | type[bool]
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None

    def check(self, value: Any) -> Value:
        """Return ``value`` as this parameter's type, or raise RecipeError."""
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise RecipeError(_("`%(name)s` is true or false."), name=self.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(_("`%(name)s` is a number."), name=self.name)
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        if not low <= value <= high:
            raise RecipeError(
                _("`%(name)s` is %(value)s; it must be from %(low)s to %(high)s."),
                name=self.name,
                value=value,
                low=low,
                high=high,
            )
        return float(value)


@dataclass(frozen=True)
class Method:
    """A merge method.

    ``combine(block, weights, values)`` returns the merged numbers of one block (1-D, in the
    block's compute dtype); it must be elementwise, so that any byte range can be computed alone.
    ``weights`` maps the coefficients to what each term is multiplied with, exactly; with it the
    engine can see when a sum is one of its parts. ``operates_on`` says what a term stands for:
    its delta τᵢ, or the model θ + τᵢ.
    """

    name: str
    title: str
    formula: str
    help: str
    source: str
    operates_on: Literal["deltas", "models"]
    parameters: tuple[Parameter, ...]
    combine: Callable[[Block, Sequence[float], Mapping[str, Value]], np.ndarray]
    weights: Callable[[Sequence[Fraction], Mapping[str, Value]], list[Fraction]] | None = None
    minimum_terms: int = 0

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All parameters with their values; unknown names are an error, never ignored."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise RecipeError(
                    _("The method %(method)s has no parameter `%(name)s`. It takes: %(known)s."),
                    method=self.name,
                    name=name,
                    known=", ".join(sorted(known)) or "none",
                )
        return {
            name: parameter.check(given.get(name, parameter.default))
            for name, parameter in known.items()
        }

    def check_weights(self, weights: Sequence[Fraction], values: Mapping[str, Value]) -> None:
        """Refuse what cannot be computed: too few terms, a normalisation by zero."""
        if len(weights) < self.minimum_terms:
            raise RecipeError(
                _("The method %(method)s needs at least %(count)d models with a weight."),
                method=self.name,
                count=self.minimum_terms,
            )
        if values.get("normalize") and weights and sum(weights) == 0:
            raise RecipeError(
                _(
                    "The weights sum to zero, so they cannot be normalised: change one, or set "
                    "normalize to false."
                )
            )


def normalized(weights: Sequence[Fraction], values: Mapping[str, Value]) -> list[Fraction]:
    """``weights`` divided by their sum where ``normalize`` asks for it."""
    total = sum(weights) if values["normalize"] else Fraction(1)
    return [weight / total for weight in weights]
