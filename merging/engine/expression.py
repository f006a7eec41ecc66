"""Recipes as one line: ``owner/a + 0.5*owner/b - (c - d)``.

A minus sign between spaces subtracts; inside a word it belongs to the name, since names such as
``all-MiniLM-L6-v2`` are full of them. A number multiplies the name or the bracket after it.
Errors point at the place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from .errors import RecipeError, _
from .recipe import parse_coefficient

MAX_LENGTH = 4000
_MAX_DEPTH = 20
_SHOWN = 100  # characters of the text on each side of an error
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_NAME = re.compile(r"[A-Za-z0-9_][\w.@/-]*")
_LONE_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?=\s*(?:[*×()+]|$|\s))")


@dataclass(frozen=True)
class Summand:
    """One name of the expression with its total factor, and where it stands."""

    name: str
    coefficient: Decimal
    position: int


def parse_expression(text: str) -> list[Summand]:
    """The summands of ``text`` in order. Raises RecipeError with the place marked."""
    if len(text) > MAX_LENGTH:
        raise RecipeError(
            _("The expression has %(length)d characters; at most %(limit)d are accepted."),
            length=len(text),
            limit=MAX_LENGTH,
        )
    parser = _Parser(text.replace("−", "-").replace("·", "*").replace("×", "*"))
    summands = parser.sum(Decimal(1), 0)
    parser.skip()
    if parser.at < len(parser.text):
        parser.fail(_("Expected + or - here: %(marked)s"))
    return summands


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, template: str, at: int | None = None) -> None:
        at = self.at if at is None else at
        first, last = max(0, at - _SHOWN), at + _SHOWN
        before, after = self.text[first:at], self.text[at:last]
        dots = ("…" if first else "", "…" if last < len(self.text) else "")
        raise RecipeError(template, marked=f"{dots[0]}{before}▸{after}{dots[1]}")

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def sum(self, factor: Decimal, depth: int) -> list[Summand]:
        if depth > _MAX_DEPTH:
            self.fail(_("Too many brackets inside each other: %(marked)s"))
        sign = Decimal(1)
        if self.peek() in ("+", "-"):
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
        number = _LONE_NUMBER.match(self.text, self.at)
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
            if self.peek() != ")":
                self.fail(_("This bracket is never closed: %(marked)s"), opened)
            self.at += 1
            return summands
        found = _NAME.match(self.text, self.at)
        if not found:
            self.fail(_("Expected the name of a vector here: %(marked)s"))
        assert found is not None
        start = self.at
        self.at = found.end()
        if self.peek() == "*":
            self.at += 1
            self.skip()
            after = _NUMBER.match(self.text, self.at)
            if not after:
                self.fail(_("Expected a number after *: %(marked)s"))
            assert after is not None
            factor *= parse_coefficient(after[0])
            self.at = after.end()
        return [Summand(found[0], parse_coefficient(factor), start)]
