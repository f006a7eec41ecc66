"""Rules: what happens to single tensors, where the default is not wanted.

An ordered list; for each tensor the first rule that matches counts. ``merge`` and ``rename`` are
factors and names, and ``rows`` are single rows, so they go on to the next rule; ``skip`` and
``map`` of one vector leave the others to the next. Model families differ by rules, never by code.
One notation serves YAML, JSON, the expression and the page::

    skip PATTERN [of VECTOR]            the vector (or every vector) leaves these tensors alone
    keep PATTERN                        the target's tensors stay as they are
    drop PATTERN                        the result does not have these tensors
    merge PATTERN x NUMBER [of VECTOR]  the coefficients are multiplied on these tensors
    take PATTERN from MODEL             the result has MODEL's tensors (also ones the target lacks)
    take PATTERN from MODEL rows {…}    only these rows: {"token of the target": "token of MODEL"}
    map PATTERN [of VECTOR]             vocabulary rows are matched by token, not by number
    rename PATTERN to PATTERN [of MODEL] [layers […]]

Patterns are names of the target's tensors; ``*`` stands for anything. In ``rename`` the left side
matches the names of the foundation and the vectors (or of one MODEL; never of the target, nor of a
vector that is the target), ``{layer}`` stands for a layer number, and ``layers`` lists the new
number of each old one. Once a name of a model is renamed, no prefix is guessed for the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

from .errors import MergeError, RecipeError, _

ACTIONS = ("skip", "keep", "drop", "merge", "take", "map", "rename")
MAX_RULES = 100
_WORDS = {"of", "from", "to", "x", "rows", "layers"}
_ALLOWED: dict[str, tuple[set[str], set[str]]] = {  # action: (needed, optional)
    "skip": (set(), {"of"}),
    "keep": (set(), set()),
    "drop": (set(), set()),
    "merge": ({"x"}, {"of"}),
    "take": ({"from"}, {"rows"}),
    "map": (set(), {"of"}),
    "rename": ({"to"}, {"of", "layers"}),
}


@dataclass(frozen=True)
class Rule:
    """One rule. ``of`` and ``source`` are references; None means every vector."""

    action: str
    pattern: str
    of: str | None = None
    source: str | None = None
    to: str | None = None
    factor: Decimal | None = None
    rows: tuple[tuple[str, str], ...] = ()
    layers: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The rule in its notation; equal rules have equal text."""
        parts = [self.action, self.pattern]
        if self.factor is not None:
            parts += ["x", format(self.factor.normalize(), "f")]
        for word, value in (("to", self.to), ("from", self.source), ("of", self.of)):
            if value is not None:
                parts += [word, value]
        if self.rows:
            parts += ["rows", _compact(dict(self.rows))]
        if self.layers:
            parts += ["layers", _compact(list(self.layers))]
        return " ".join(parts)

    @property
    def references(self) -> list[str]:
        """The models the rule names."""
        return [ref for ref in (self.of, self.source) if ref is not None]

    def resolved(self, resolve: Callable[[str], str]) -> Rule:
        """The rule with its references replaced."""
        return replace(
            self,
            of=resolve(self.of) if self.of is not None else None,
            source=resolve(self.source) if self.source is not None else None,
        )

    def concerns(self, ref: str) -> bool:
        """Whether the rule is about the vector ``ref``."""
        return self.of is None or self.of == ref

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts = re.split(r"(\*|\{layer\})", self.pattern)
        groups = {"*": "(.*)", "{layer}": r"(?P<layer>\d+)"}
        return re.compile("".join(groups.get(part, re.escape(part)) for part in parts))

    def matches(self, name: str) -> bool:
        """Whether the tensor ``name`` is meant."""
        return self._expression.fullmatch(name) is not None

    def renamed(self, name: str) -> str | None:
        """The new name of ``name``, or None where the rule does not match it.

        Raises MergeError for a layer that ``layers`` does not list.
        """
        found = self._expression.fullmatch(name)
        if found is None or self.to is None:
            return None
        stars = iter([text for text in found.groups() if text is not None])
        out = []
        # Both kinds of holes are filled in the order of the left side.
        for part in re.split(r"(\*|\{layer\})", self.to):
            if part == "*":
                out.append(next(stars, ""))
            elif part == "{layer}":
                layer = int(next(stars, "0"))
                if self.layers:
                    if layer >= len(self.layers):
                        raise MergeError(
                            _(
                                "The rule `%(rule)s` gives %(count)d layer numbers, but there is "
                                "`%(tensor)s`: say where its layer goes."
                            ),
                            rule=self.text,
                            count=len(self.layers),
                            tensor=name,
                        )
                    layer = self.layers[layer]
                out.append(str(layer))
            else:
                out.append(part)
        return "".join(out)


def read_rule(raw: Any) -> Rule:
    """A rule from its notation. Raises RecipeError that shows the rule and what is wrong."""
    if not isinstance(raw, str):
        raise RecipeError(_("A rule is a line of text, such as `skip *embed_tokens*`."))
    words = _split(raw)
    if len(words) < 2 or words[0] not in ACTIONS:
        raise RecipeError(
            _("The rule `%(rule)s` does not begin with one of %(known)s and a pattern."),
            rule=raw[:200],
            known=", ".join(ACTIONS),
        )
    action, pattern = words[0], words[1]
    given: dict[str, str] = {}
    for at in range(2, len(words), 2):
        word = words[at]
        if word not in _WORDS or word in given or at + 1 >= len(words):
            raise RecipeError(
                _("The rule `%(rule)s` cannot be read at `%(word)s`."), rule=raw[:200], word=word
            )
        given[word] = words[at + 1]
    needed, optional = _ALLOWED[action]
    for word in given:
        if word not in needed | optional:
            raise RecipeError(
                _("The rule `%(rule)s`: `%(action)s` knows no `%(word)s`."),
                rule=raw[:200],
                action=action,
                word=word,
            )
    for word in sorted(needed - set(given)):
        raise RecipeError(
            _("The rule `%(rule)s`: `%(action)s` needs `%(word)s`."),
            rule=raw[:200],
            action=action,
            word=word,
        )
    return _check(
        Rule(
            action,
            pattern,
            of=given.get("of"),
            source=given.get("from"),
            to=given.get("to"),
            factor=_factor(given["x"], raw) if "x" in given else None,
            rows=_rows(given["rows"], raw) if "rows" in given else (),
            layers=_layers(given["layers"], raw) if "layers" in given else (),
        ),
        raw,
    )


def read_rules(raw: Any) -> tuple[Rule, ...]:
    """A list of rules. Raises RecipeError."""
    if not isinstance(raw, list | tuple) or len(raw) > MAX_RULES:
        raise RecipeError(_("`rules` is a list of at most %(limit)d lines."), limit=MAX_RULES)
    return tuple(item if isinstance(item, Rule) else read_rule(item) for item in raw)


def _split(raw: str) -> list[str]:
    """Words at spaces; from ``{"`` or ``[`` on, the JSON that follows is one word."""
    found = re.search(r"\s(rows|layers)\s+(?=[{\[])", raw)
    if not found:
        return raw.split()
    return [*raw[: found.start()].split(), found[1], raw[found.end() :].strip()]


def _factor(text: str, raw: str) -> Decimal:
    from .recipe import parse_coefficient

    try:
        return parse_coefficient(text)
    except RecipeError as error:
        raise RecipeError(
            _("The rule `%(rule)s`: %(text)s is not a number."), rule=raw[:200], text=text[:40]
        ) from error


def _rows(text: str, raw: str) -> tuple[tuple[str, str], ...]:
    rows = _json(text, raw)
    if isinstance(rows, list) and all(isinstance(row, str) for row in rows):
        rows = {row: row for row in rows}
    if (
        not isinstance(rows, Mapping)
        or not rows
        or not all(isinstance(row, str) for row in rows.values())
    ):
        raise RecipeError(
            _("The rule `%(rule)s`: `rows` is a list of tokens, or pairs of tokens in braces."),
            rule=raw[:200],
        )
    return tuple(sorted(rows.items()))


def _layers(text: str, raw: str) -> tuple[int, ...]:
    layers = _json(text, raw)
    if not isinstance(layers, list) or not all(
        type(each) is int and 0 <= each < 10_000 for each in layers
    ):
        raise RecipeError(
            _("The rule `%(rule)s`: `layers` is a list of layer numbers."), rule=raw[:200]
        )
    return tuple(layers)


def _json(text: str, raw: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RecipeError(
            _("The rule `%(rule)s`: what stands in brackets is not JSON."), rule=raw[:200]
        ) from None


def _check(rule: Rule, raw: str) -> Rule:
    holes = re.findall(r"\*|\{layer\}", rule.pattern)
    if "{layer}" in holes and (rule.action != "rename" or holes.count("{layer}") > 1):
        raise RecipeError(
            _("The rule `%(rule)s`: {layer} stands once, and only in `rename`."), rule=raw[:200]
        )
    if rule.to is not None and re.findall(r"\*|\{layer\}", rule.to) != holes:
        raise RecipeError(
            _("The rule `%(rule)s`: both sides need the same * and {layer}, in the same order."),
            rule=raw[:200],
        )
    if rule.layers and "{layer}" not in holes:
        raise RecipeError(
            _("The rule `%(rule)s`: `layers` needs {layer} in the pattern."), rule=raw[:200]
        )
    return rule


def _compact(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
