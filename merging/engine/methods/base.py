"""What a merge method declares: its parameters, once, and functions on blocks of numbers.

The command's flags, the form, the API schema and the documentation derive from the declaration.
A method comes in one of three shapes:

- *elementwise*: ``combine`` alone. Any byte range can be computed by itself.
- *with statistics*: ``prepare`` reads the whole tensor once, in fixed segments and in order, and
  returns a few numbers (norms, thresholds); ``combine`` is elementwise given them.
- *whole tensor*: ``whole`` returns the merged update of a matrix at once (SVD and the like);
  ``combine`` serves the tensors it does not apply to (1-D tensors, vocabulary matrices).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from merging.engine.errors import RecipeError, _
from merging.engine.settings import Value, read_setting

if TYPE_CHECKING:
    from merging.engine.align import PlannedTensor
    from merging.engine.block import Block
    from merging.engine.whole import Whole
    from merging.engine.workspace import Workspace

__all__ = ["Arguments", "Method", "Parameter", "Value", "normalized"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method. ``name`` is mergekit's where it has one.

    ``scope`` says whether each term may have its own value (and the recipe one for all), or only
    the recipe as a whole. Without a ``default`` it must be given. ``ignored`` parameters are
    accepted because recipes carry them, and change nothing: ``help`` says why.
    """

    name: str
    type: type[float] | type[bool] | type[int]
    default: Value | None
    help: str
    minimum: float | None = None
    maximum: float | None = None
    scope: Literal["recipe", "term"] = "recipe"
    ignored: bool = False

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is None

    def check(self, value: Any) -> Value:
        """Return ``value`` as this parameter's type, or raise RecipeError."""
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise RecipeError(_("`%(name)s` is true or false."), name=self.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(_("`%(name)s` is a number."), name=self.name)
        # Nothing is infinite: neither JSON nor an expression could say it again.
        low = -sys.float_info.max if self.minimum is None else self.minimum
        high = sys.float_info.max if self.maximum is None else self.maximum
        if not low <= value <= high:
            raise RecipeError(
                _("`%(name)s` is %(value)s; it must be from %(low)s to %(high)s."),
                name=self.name,
                value=value,
                low=low,
                high=high,
            )
        if self.type is int and value != int(value):
            raise RecipeError(_("`%(name)s` is a whole number."), name=self.name)
        return float(value) + 0.0  # a zero has one sign, or equal settings would differ

    def read(self, raw: Any) -> Any:
        """``raw`` as a setting (value, gradient or filters) of this parameter."""
        return read_setting(raw, self.check, self.name, self.default)


@dataclass(frozen=True)
class Arguments:
    """What a method is called with for one tensor: everything evaluated for its name and layer.

    ``weights[k]``, ``terms[k]`` and ``keys[k]`` belong to term ``k`` of the recipe: its weight (a
    double), its own parameters, and the name that addresses its random numbers. ``values`` are
    the parameters of the recipe; ``state`` is what ``prepare`` returned.
    """

    tensor: str
    shape: tuple[int, ...]
    weights: tuple[float, ...]
    values: Mapping[str, Any]
    terms: tuple[Mapping[str, Any], ...] = ()
    keys: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    state: Any = None


@dataclass(frozen=True)
class Method:
    """A merge method.

    ``operates_on`` says what a term stands for: its delta τᵢ, or the model θ + τᵢ.
    ``combine(block, arguments)`` returns one block (1-D, in the block's compute dtype): for
    "deltas" the merged update, which the engine multiplies with the parameter ``lambda`` (if the
    method has one) and adds to the target; for "models" the merged numbers themselves. Given
    ``arguments.state`` it must be elementwise, so that any byte range can be computed alone.
    ``fused(block, arguments, out)`` may write the finished bytes of the same block to ``out``
    (uint8) and say so by True; it must be the same operations in the same order. So may
    ``direct(tensor, arguments, span, goal, work)`` with elements of a BF16 tensor, right to a file.
    ``linear_weights`` maps the coefficients to what each term is multiplied with, exactly, where
    the result is such a sum (None where it is not); with it the engine can see when a sum is one
    of its parts.
    ``weighted`` methods take a coefficient for each term; the others find it themselves.
    ``without_base`` names the method that mergekit's name means where its YAML has no base_model:
    the same formula on whole models, whose inputs are all terms.
    """

    name: str
    title: str
    formula: str
    help: str
    source: str
    operates_on: Literal["deltas", "models"]
    parameters: tuple[Parameter, ...]
    combine: Callable[[Block, Arguments], np.ndarray]
    fused: Callable[[Block, Arguments, np.ndarray], bool] | None = None
    direct: (
        Callable[[PlannedTensor, Arguments, tuple[int, int], tuple[int, int], Workspace], bool]
        | None
    ) = None
    prepare: Callable[[Whole, Arguments], Any] | None = None
    whole: Callable[[Whole, Arguments], np.ndarray] | None = None
    linear_weights: (
        Callable[[Sequence[Fraction], Mapping[str, Any]], list[Fraction] | None] | None
    ) = None
    check: Callable[[Mapping[str, Any]], None] | None = None
    weighted: bool = True
    random: bool = False
    without_base: str | None = None
    minimum_terms: int = 0
    maximum_terms: int | None = None
    suggested: tuple[float, float, float] | None = None  # lowest, default and highest sensible λ

    def parameter(self, name: str) -> Parameter | None:
        """The declared parameter called ``name``."""
        return next((item for item in self.parameters if item.name == name), None)

    def check_parameters(
        self, given: Mapping[str, Any], scope: Literal["recipe", "term"] = "recipe"
    ) -> dict[str, Any]:
        """``given`` checked, as settings; unknown names are an error, never ignored.

        Parameters of scope ``term`` may be given for the whole recipe too.
        """
        allowed = {p.name: p for p in self.parameters if scope == "recipe" or p.scope == "term"}
        for name in given:
            if name not in allowed:
                raise RecipeError(
                    _("The method %(method)s has no parameter `%(name)s`. It takes: %(known)s."),
                    method=self.name,
                    name=name,
                    known=", ".join(sorted(n for n, p in allowed.items() if not p.ignored))
                    or "none",
                )
        found = {name: allowed[name].read(raw) for name, raw in given.items()}
        return {name: found[name] for name in sorted(found) if not allowed[name].ignored}

    def check_required(self, values: Mapping[str, Any]) -> None:
        """Raise RecipeError where a parameter without a default is missing."""
        for parameter in self.parameters:
            if parameter.required and parameter.name not in values:
                raise RecipeError(
                    _("`%(name)s` is missing: the method %(method)s needs it. %(help)s"),
                    name=parameter.name,
                    method=self.name,
                    help=_(parameter.help),
                )

    def check_terms(self, weights: Sequence[Fraction], values: Mapping[str, Any]) -> None:
        """Refuse what cannot be computed: too few terms, a normalisation by zero."""
        count = len(weights)
        if count < self.minimum_terms:
            raise RecipeError(
                _("The method %(method)s needs at least %(count)d models with a weight."),
                method=self.name,
                count=self.minimum_terms,
            )
        if self.maximum_terms is not None and count > self.maximum_terms:
            raise RecipeError(
                _("The method %(method)s takes at most %(count)d models besides the target."),
                method=self.name,
                count=self.maximum_terms,
            )
        if not self.weighted and any(weight != 1 for weight in weights):
            raise RecipeError(
                _("The method %(method)s finds the weights itself: leave them out."),
                method=self.name,
            )
        for name in ("normalize", "normalize_weights"):
            declared = self.parameter(name)
            normalize = values.get(name, declared.default) if declared else False
            if normalize is True and weights and sum(weights) == 0:
                raise RecipeError(
                    _(
                        "The weights sum to zero, so they cannot be normalised: change one, or set "
                        "%(name)s to false."
                    ),
                    name=name,
                )


def normalized(weights: Sequence[Fraction], values: Mapping[str, Any]) -> list[Fraction]:
    """``weights`` divided by their sum where ``normalize`` asks for it."""
    total = sum(weights) if values["normalize"] else Fraction(1)
    return [weight / total for weight in weights]
