"""A cursor over the text of an expression: names, texts, numbers, lists and filters."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .errors import RecipeError, _

NAME = re.compile(r"[A-Za-z0-9_~./][\w.@/-]*")
KEY = re.compile(r"[A-Za-z_]\w*")
FILTER = re.compile(r"[\w.*-]+")
_VALUE = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_SIGN = re.compile(r'"(?:[^"\\]|\\.)*"|[−·×]')
_SIGNS = {"−": "-", "·": "*", "×": "*"}
_SHOWN = 100  # characters of the text on each side of an error


def marked(text: str, at: int) -> str:
    """The surroundings of the place ``at`` of ``text``, with a mark there."""
    first, last = max(0, at - _SHOWN), at + _SHOWN
    dots = ("…" if first else "", "…" if last < len(text) else "")
    return f"{dots[0]}{text[first:at]}▸{text[at:last]}{dots[1]}"


class Cursor:
    """A text and a place in it; what cannot be read is a RecipeError that marks the place."""

    def __init__(self, text: str) -> None:
        self.text = _SIGN.sub(lambda found: _SIGNS.get(found[0], found[0]), text)
        self.at = 0

    def fail(self, template: str, at: int | None = None, **params: Any) -> NoReturn:
        at = self.at if at is None else at
        raise RecipeError(template, marked=marked(self.text, at), **params)

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def name(self, expected: str) -> str:
        if self.peek() == '"':
            return self.string()
        found = NAME.match(self.text, self.at)
        if not found:
            self.fail(expected)
        self.at = found.end()
        return found[0]

    def close(self, mark: str, opened: int) -> None:
        if self.peek() != mark:
            if self.peek() and self.text[opened] != "(":
                self.fail(_("Expected a comma or the end of the bracket here: %(marked)s"))
            self.fail(_("This bracket is never closed: %(marked)s"), opened)
        self.at += 1

    def string(self) -> str:
        if self.peek() != '"':
            self.fail(_("Expected a text in double quotes here: %(marked)s"))
        try:
            found, end = json.decoder.scanstring(self.text, self.at + 1)  # type: ignore[attr-defined]
        except ValueError:
            self.fail(_("This text has no end: %(marked)s"))
        self.at = end
        return str(found)

    def value(self) -> Any:
        """A number, true or false, a list of them (a gradient), or filters in braces."""
        if self.peek() == "[":
            return self.gradient()
        if self.peek() == "{":
            return self.filters()
        return self.scalar()

    def scalar(self) -> Any:
        self.skip()
        number = _VALUE.match(self.text, self.at)
        if number:
            self.at = number.end()
            return float(number[0])
        word = KEY.match(self.text, self.at)
        if not word or word[0] not in ("true", "false"):
            self.fail(_("Expected a number, true, false, [ or { here: %(marked)s"))
        self.at = word.end()
        return word[0] == "true"

    def gradient(self) -> list[Any]:
        opened = self.at
        found = []
        while True:
            self.at += 1
            found.append(self.scalar())
            if self.peek() != ",":
                break
        self.close("]", opened)
        return found

    def filters(self) -> list[dict[str, Any]]:
        opened = self.at
        found = []
        while True:
            self.at += 1
            if self.peek() == '"':
                pattern = self.string()
            else:
                match = FILTER.match(self.text, self.at)
                if not match:
                    self.fail(_("Expected a part of the tensors' names here: %(marked)s"))
                self.at, pattern = match.end(), match[0]
            if self.peek() != ":":
                self.fail(_("Expected : after the filter here: %(marked)s"))
            self.at += 1
            value = self.gradient() if self.peek() == "[" else self.scalar()
            found.append(
                {"value": value} if pattern == "*" else {"filter": pattern, "value": value}
            )
            if self.peek() != ",":
                break
        self.close("}", opened)
        return found
