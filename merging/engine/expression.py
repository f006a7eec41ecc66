"""Recipes as one line: ``base + ties(a + 0.5*b[density=0.3], density=0.2)``.

A plain sum is task arithmetic: ``owner/a + 0.5*owner/b - (c - d)``. A minus sign between spaces
subtracts; inside a word it belongs to the name, since names such as ``all-MiniLM-L6-v2`` are full
of them. A number multiplies the name or the bracket after it. Behind a comma stand parameters of
the method and of the recipe (``on``, ``base``, ``seed``, ``out_dtype``, ``rule``), in square
brackets those of one vector. Errors point at the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .cursor import KEY, Cursor
from .dtype_names import DTYPES
from .errors import RecipeError, _
from .methods import METHODS, Method, get_method
from .recipe import MAX_SEED, WEIGHT, parse_coefficient
from .rules import Rule, read_rule

MAX_LENGTH = 4000
DEFAULT_METHOD = "task_arithmetic"
WORDS = ("on", "base", "seed", "out_dtype", "rule")  # parameters of the recipe itself
HERE = _("Here: %(marked)s")
_MAX_DEPTH = 20
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
LONE_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?=\s*(?:[*×()+]|$|\s))")
_SEED = re.compile(r"\d{1,16}(?!\d)")
_KEYWORD = re.compile(r"\s*[A-Za-z_]\w*\s*=")


@dataclass(frozen=True)
class Summand:
    """One name of the expression with its total factor and own parameters, and where it stands."""

    name: str
    coefficient: Decimal
    position: int
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Expression:
    """A recipe as written. What the names mean is for others to say.

    ``on`` names the target, ``base`` the foundation where it is another model. ``target_apart``
    says that the target stands outside the method's brackets, so no summand is meant by it.
    """

    summands: tuple[Summand, ...]
    method: str = DEFAULT_METHOD
    called: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    on: str | None = None
    base: str | None = None
    target_apart: bool = False
    seed: int = 0
    out_dtype: str | None = None
    rules: tuple[Rule, ...] = ()

    def split_target(
        self, is_foundation: Callable[[Summand], bool]
    ) -> tuple[str | None, tuple[Summand, ...]]:
        """The target's name (None: not said) and the summands besides it.

        The target is what ``on`` names, and then a summand of that name with coefficient 1 is
        meant by it; else the first summand that ``is_foundation`` says is one. Raises RecipeError
        where that one is multiplied.
        """
        if self.target_apart:
            return self.on, self.summands
        for index, summand in enumerate(self.summands):
            rest = (*self.summands[:index], *self.summands[index + 1 :])
            plain = summand.coefficient == 1 and not summand.parameters
            if self.on is not None:
                if summand.name == self.on and plain:
                    return self.on, rest
            elif is_foundation(summand):
                if not plain:
                    raise RecipeError(
                        _(
                            "%(name)s is what the vectors are put on: it stands in the sum once, "
                            "without a number. Or name it at the end: on=%(name)s."
                        ),
                        name=summand.name,
                    )
                return summand.name, rest
        return self.on, self.summands


def parse_expression(text: str) -> Expression:
    """``text`` read; its method's parameters are checked. Raises RecipeError, the place marked."""
    if len(text) > MAX_LENGTH:
        raise RecipeError(
            _("The expression has %(length)d characters; at most %(limit)d are accepted."),
            length=len(text),
            limit=MAX_LENGTH,
        )
    parser = _Parser(text)
    outside = parser.sum(Decimal(1), 0)
    parser.keywords()
    parser.skip()
    if parser.at < len(parser.text):
        parser.fail(_("Expected + or - here: %(marked)s"))
    return parser.finish(outside)


class _Parser(Cursor):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.method: Method = get_method(DEFAULT_METHOD)
        self.call: int | None = None  # where the method's name stands
        self.inside: list[Summand] = []
        self.given: dict[str, Any] = {}
        self.rules: list[Rule] = []

    # Sums

    def sum(self, factor: Decimal, depth: int) -> list[Summand]:
        if depth > _MAX_DEPTH:
            self.fail(_("Too many brackets inside each other: %(marked)s"))
        sign = Decimal(1)
        if self.peek() in ("+", "-") and self.peek():
            sign = Decimal(-1) if self.text[self.at] == "-" else sign
            self.at += 1
        summands = self.product(factor * sign, depth)
        while self.peek() in ("+", "-") and self.peek():
            sign = Decimal(-1) if self.text[self.at] == "-" else Decimal(1)
            self.at += 1
            summands += self.product(factor * sign, depth)
        return summands

    def product(self, factor: Decimal, depth: int) -> list[Summand]:
        self.skip()
        number = LONE_NUMBER.match(self.text, self.at)
        if number:
            factor *= parse_coefficient(number[0])
            self.at = number.end()
            if self.peek() == "*":
                self.at += 1
            self.skip()
        if self.peek() == "(":
            opened = self.at
            self.at += 1
            summands = self.sum(factor, depth + 1)
            self.close(")", opened)
            return summands
        start = self.at
        name = self.name(_("Expected the name of a vector here: %(marked)s"))
        if self.text[self.at : self.at + 1] == "(":
            self.called(name, start, factor, depth)
            return []
        parameters: dict[str, Any] = {}
        if self.peek() == "[":
            parameters = self.bracket()
        if self.peek() == "*":
            self.at += 1
            self.skip()
            after = _NUMBER.match(self.text, self.at)
            if not after:
                self.fail(_("Expected a number after *: %(marked)s"))
            factor *= parse_coefficient(after[0])
            self.at = after.end()
        return [Summand(name, parse_coefficient(factor), start, parameters)]

    def called(self, name: str, start: int, factor: Decimal, depth: int) -> None:
        """``name(sum, keywords)``: everything inside is the method's."""
        if name not in METHODS:
            self.fail(
                _("There is no method called %(name)s (known: %(known)s): %(marked)s"),
                start,
                name=name,
                known=", ".join(sorted(METHODS)),
            )
        if self.call is not None or depth or factor != 1:
            self.fail(
                _("A method stands once, outside of brackets and without a number: %(marked)s"),
                start,
            )
        self.call, self.method = start, get_method(name)
        opened = self.at
        self.at += 1
        if self.peek() != ")" and not _KEYWORD.match(self.text, self.at):
            self.inside = self.sum(Decimal(1), depth + 1)
            self.keywords()
        elif self.peek() != ")":
            self.keyword()
            self.keywords()
        self.close(")", opened)

    # Parameters

    def keywords(self) -> None:
        while self.peek() == ",":
            self.at += 1
            self.keyword()

    def keyword(self) -> None:
        key, start = self.key()
        if key == "rule":
            self.rules.append(self.rule())
            return
        if key in self.given:
            self.fail(_("`%(key)s` is given twice: %(marked)s"), start, key=key)
        self.given[key] = self.word(key, start)

    def rule(self) -> Rule:
        """A rule in its notation, in double quotes."""
        self.skip()
        start = self.at
        text = self.string()
        try:
            return read_rule(text)
        except RecipeError as error:
            self.fail(f"{error.template}\n{HERE}", start, **error.params)

    def dtype(self) -> str:
        self.skip()
        found = KEY.match(self.text, self.at)
        if not found or found[0] not in DTYPES:
            self.fail(_("Expected one of %(known)s here: %(marked)s"), known=", ".join(DTYPES))
        self.at = found.end()
        return DTYPES[found[0]]

    def seed(self) -> int:
        self.skip()
        found = _SEED.match(self.text, self.at)
        if not found or int(found[0]) >= MAX_SEED:
            self.fail(_("Expected a whole number here: %(marked)s"))
        self.at = found.end()
        return int(found[0])

    def word(self, key: str, start: int) -> Any:
        """The value of a keyword of the recipe or the method."""
        if key in ("on", "base"):
            return self.name(_("Expected the name of a model here: %(marked)s"))
        if key == "out_dtype":
            return self.dtype()
        if key == "seed":
            return self.seed()
        return self.parameter(key, start, "recipe")

    def bracket(self) -> dict[str, Any]:
        """``[name=value, …]`` behind a vector."""
        opened = self.at
        found: dict[str, Any] = {}
        while True:
            self.at += 1
            key, start = self.key()
            if key in found:
                self.fail(_("`%(key)s` is given twice: %(marked)s"), start, key=key)
            found[key] = self.parameter(key, start, "term")
            if self.peek() != ",":
                break
        self.close("]", opened)
        return found

    def key(self) -> tuple[str, int]:
        self.skip()
        start = self.at
        found = KEY.match(self.text, self.at)
        if found:
            self.at = found.end()
        if not found or self.peek() != "=":
            self.fail(_("Expected NAME=VALUE here: %(marked)s"), start)
        self.at += 1
        return found[0], start

    def parameter(self, key: str, start: int, scope: str) -> Any:
        declared = self.method.parameter(key)
        if key == WEIGHT.name and scope == "term" and declared is None and self.method.weighted:
            declared = WEIGHT
        elif declared is None or (scope == "term" and declared.scope != "term"):
            known = [
                p.name for p in self.method.parameters if scope == "recipe" or p.scope == scope
            ]
            self.fail(
                _("%(method)s has no parameter `%(key)s` here (it takes: %(known)s): %(marked)s"),
                start,
                method=self.method.name,
                key=key,
                known=", ".join(sorted(known)) or "none",
            )
        self.skip()
        at = self.at
        raw = self.value()
        try:
            declared.read(raw)
        except RecipeError as error:
            self.fail(f"{error.template}\n{HERE}", at, **error.params)
        return raw

    def finish(self, outside: list[Summand]) -> Expression:
        words = {key: value for key, value in self.given.items() if key in WORDS}
        parameters = {key: value for key, value in self.given.items() if key not in WORDS}
        on, apart = words.pop("on", None), False
        if self.call is not None and outside:
            if len(outside) > 1 or outside[0].coefficient != 1 or outside[0].parameters:
                self.fail(
                    _("Beside a method stands only what its result is added to: %(marked)s"),
                    outside[-1].position,
                )
            if on not in (None, outside[0].name):
                self.fail(_("`on` names another target: %(marked)s"), outside[0].position)
            on, apart = outside[0].name, True
        return Expression(
            summands=tuple(self.inside if self.call is not None else outside),
            method=self.method.name,
            called=self.call is not None,
            parameters=parameters,
            on=on,
            target_apart=apart,
            rules=tuple(self.rules),
            **words,
        )
