"""A loadout: what somebody is putting together, before it is a recipe.

Its whole state is a query string, so that a link is a loadout, each change is an ordinary form
that is sent, and nothing is stored for somebody who only looks. ``formula`` writes it as an
expression; equipping and forecasting start from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from django.http import QueryDict

from merging.engine.errors import RecipeError
from merging.engine.expression import DEFAULT_METHOD, Expression, parse_expression
from merging.engine.mergekit import base_is_input
from merging.engine.methods import METHODS, Method, Parameter, get_method
from merging.engine.recipe import coefficient_text

MAX_SLOTS = 24
LOW, HIGH = Decimal("-1.5"), Decimal("1.5")  # of the sliders; a typed number may be greater
LIMIT = Decimal(100)
PARAMETER = "p_"  # prefix of the method's parameters in the query


@dataclass(frozen=True)
class Slot:
    """One vector (``owner/name`` or ``owner/name@v2``), its coefficient, and whether it counts."""

    name: str
    coefficient: Decimal = Decimal(1)
    on: bool = True

    @property
    def text(self) -> str:
        """The coefficient as it is written."""
        return coefficient_text(self.coefficient)


@dataclass(frozen=True)
class Analogy:
    """``C + λ(B − A)``: what B has and A has not, carried over to C."""

    c: str = ""
    b: str = ""
    a: str = ""
    scale: Decimal = Decimal(1)

    @property
    def complete(self) -> bool:
        """Whether all three are chosen."""
        return bool(self.c and self.b and self.a)

    @property
    def started(self) -> bool:
        """Whether any is."""
        return bool(self.c or self.b or self.a)

    @property
    def text(self) -> str:
        """λ as it is written."""
        return coefficient_text(self.scale)


@dataclass(frozen=True)
class Loadout:
    """Target, slots, analogy, method and its parameters; ``name`` is what its maker calls it.

    ``typed`` is a formula that the slots cannot show (rules, settings of one vector, a seed); it
    then stands for everything else.
    """

    on: str = ""
    slots: tuple[Slot, ...] = ()
    analogy: Analogy = field(default_factory=Analogy)
    method: str = DEFAULT_METHOD
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    typed: str = ""

    # --- reading and writing -----------------------------------------------------------------

    @classmethod
    def from_query(cls, query: QueryDict) -> Loadout:
        """What the query says; what makes no sense in it is left out, as in any address."""
        off = set(query.getlist("off"))
        names, numbers = [_stored(name) for name in query.getlist("v")], query.getlist("c")
        slots = tuple(
            Slot(name[:200], number(numbers[i] if i < len(numbers) else ""), str(i) not in off)
            for i, name in enumerate(names[:MAX_SLOTS])
            if name
        )
        method = query.get("method", DEFAULT_METHOD)
        method = method if method in METHODS else DEFAULT_METHOD
        return cls(
            on=_stored(query.get("on", ""))[:200],
            slots=slots,
            analogy=Analogy(
                _stored(query.get("ac", ""))[:200],
                _stored(query.get("ab", ""))[:200],
                _stored(query.get("aa", ""))[:200],
                number(query.get("al", "")),
            ),
            method=method,
            parameters=_parameters(get_method(method), query),
            name=_stored(query.get("name", "")).strip()[:80],
            typed=query.get("typed", "").strip()[:4000],
        )

    def query(self) -> str:
        """The loadout as a query string, without what goes without saying."""
        query = QueryDict(mutable=True)
        if self.name:
            query["name"] = self.name
        if self.on:
            query["on"] = self.on
        if self.typed:
            query["typed"] = self.typed
            return query.urlencode(safe="/@")
        for slot in self.slots:
            query.appendlist("v", slot.name)
            query.appendlist("c", slot.text)
        query.setlist("off", [str(i) for i, slot in enumerate(self.slots) if not slot.on])
        if self.analogy.started:
            query["ac"], query["ab"], query["aa"] = self.analogy.c, self.analogy.b, self.analogy.a
            query["al"] = self.analogy.text
        if self.method != DEFAULT_METHOD:
            query["method"] = self.method
        for key, value in sorted(self.parameters.items()):
            query[PARAMETER + key] = written(value)
        return query.urlencode(safe="/@")

    # --- changing ----------------------------------------------------------------------------

    def with_vector(self, name: str, coefficient: Decimal = Decimal(1)) -> Loadout:
        """With one more vector; one that is there already stays as it is."""
        if any(slot.name == name for slot in self.slots) or len(self.slots) >= MAX_SLOTS:
            return self
        return replace(self, slots=(*self.slots, Slot(name, coefficient)))

    def without(self, index: int) -> Loadout:
        """Without the slot at ``index``."""
        return replace(self, slots=self.slots[:index] + self.slots[index + 1 :])

    def negated(self, index: int) -> Loadout:
        """With the sign of the slot at ``index`` turned: learning becomes forgetting."""
        slot = self.slots[index]
        turned = replace(slot, coefficient=-slot.coefficient)
        return replace(self, slots=(*self.slots[:index], turned, *self.slots[index + 1 :]))

    # --- meaning -----------------------------------------------------------------------------

    def terms(self) -> list[tuple[str, Decimal]]:
        """What is added: names with their coefficients, in order, those of the analogy last."""
        found = [
            (slot.name, slot.coefficient) for slot in self.slots if slot.on and slot.coefficient
        ]
        if self.analogy.complete:
            found.append((self.analogy.c, Decimal(1)))
            found.append((self.analogy.b, self.analogy.scale))
            found.append((self.analogy.a, -self.analogy.scale))
        return found

    def formula(self) -> str:
        """The loadout as an expression; empty while nothing is in it."""
        if self.typed:
            return self.typed
        terms = self.terms()
        if not terms:
            return ""
        summed = "".join(
            f" {'-' if each < 0 else '+'} {factor(abs(each))}{name}" for name, each in terms
        ).strip()
        summed = summed.removeprefix("+ ")
        words = [f"{key}={written(value)}" for key, value in sorted(self.parameters.items())]
        if self.method == DEFAULT_METHOD and not words:
            first = "" if summed.startswith("- ") else "+ "
            return f"{self.on} {first}{summed}" if self.on else summed
        call = f"{self.method}({', '.join([summed, *words])})"
        if base_is_input(get_method(self.method)) or not self.on:
            return call
        return f"{self.on} + {call}"


def read_formula(text: str, *, name: str = "") -> Loadout:
    """The loadout that an expression is. Raises RecipeError, the place marked."""
    parsed = parse_expression(text)
    if not _fits_slots(parsed):
        return Loadout(name=name, typed=text.strip(), on=parsed.on or "")
    return Loadout(
        on=parsed.on or "",
        slots=tuple(Slot(each.name, each.coefficient) for each in parsed.summands),
        method=parsed.method,
        parameters=parsed.parameters,
        name=name,
    )


def _fits_slots(parsed: Expression) -> bool:
    """Whether slots and a form can show all of it."""
    return not (
        parsed.rules
        or parsed.seed
        or parsed.out_dtype
        or parsed.base
        or any(each.parameters for each in parsed.summands)
        or any(not isinstance(value, int | float) for value in parsed.parameters.values())
        or len(parsed.summands) > MAX_SLOTS
    )


def _stored(text: str) -> str:
    """``text`` as a database takes it: PostgreSQL refuses the character 0."""
    return text.replace("\0", "")


def number(text: str) -> Decimal:
    """A coefficient as typed; 1 where it is none."""
    try:
        value = Decimal(text.strip().replace("−", "-").replace(",", "."))
    except InvalidOperation:
        return Decimal(1)
    if not value.is_finite() or not -LIMIT <= value <= LIMIT:
        return Decimal(1)
    return round(value, 4).normalize() + 0


def factor(value: Decimal) -> str:
    """``0.5*`` before a name; nothing for 1."""
    text = coefficient_text(value)
    return "" if text == "1" else f"{text}*"


def written(value: Any) -> str:
    """A parameter's value as the expression writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True)
class Field:
    """A parameter of the method, for the form."""

    declared: Parameter
    value: Any

    @property
    def key(self) -> str:
        """Its name in the query."""
        return PARAMETER + self.declared.name

    @property
    def is_switch(self) -> bool:
        """Whether it is yes or no."""
        return self.declared.type is bool

    @property
    def text(self) -> str:
        """What the field shows."""
        return "" if self.value is None else written(self.value)


def fields_of(method: Method, given: Mapping[str, Any]) -> list[Field]:
    """The form of a method, from its declaration; what it ignores is not asked for."""
    return [
        Field(declared, given.get(declared.name, declared.default))
        for declared in method.parameters
        if not declared.ignored
    ]


def _parameters(method: Method, query: Mapping[str, str]) -> dict[str, Any]:
    """What the query says of the method's parameters and differs from their defaults."""
    found: dict[str, Any] = {}
    for declared in method.parameters:
        text = query.get(PARAMETER + declared.name, "").strip()
        if not text or declared.ignored:
            continue
        try:
            value = declared.check(_value(declared, text))
        except (RecipeError, ValueError):
            continue
        if value != declared.default:
            found[declared.name] = value
    return found


def _value(declared: Parameter, text: str) -> Any:
    if declared.type is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return float(text)
