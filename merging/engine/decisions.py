"""What the rules of a recipe say of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import MergeError, _
from .rules import Rule

if TYPE_CHECKING:
    from .align import TermSource
    from .report import Report


@dataclass
class Choice:
    """What is done with one term on one tensor."""

    skip: bool = False
    map: bool = False
    factor: float = 1.0


@dataclass
class Decision:
    """What is done with one tensor of the target."""

    terms: list[Choice]
    keep: bool = False
    drop: bool = False
    take: Rule | None = None
    rows: tuple[Rule, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether a rule decided about the tensor as a whole: later ones do not count."""
        return self.keep or self.drop or self.take is not None

    @property
    def stays(self) -> bool:
        """Whether the target's numbers stay: a rule keeps them, or no vector may touch them."""
        return self.keep or all(choice.skip for choice in self.terms)


class Decisions:
    """The rules, applied by name; it notes which of them decide anything."""

    def __init__(self, rules: Sequence[Rule], terms: Sequence[TermSource]) -> None:
        self._rules = rules
        self._refs = [term.ref for term in terms]
        self._decided: dict[Rule, set[str]] = {rule: set() for rule in rules}
        self._met: set[Rule] = set()

    def note(self, rule: Rule, name: str) -> None:
        """``rule`` decided something about the tensor ``name`` of the result."""
        self._decided[rule].add(name)

    def rename(self, name: str, ref: str) -> str | None:
        """The name in the target that the first ``rename`` for ``ref`` gives, or None."""
        goal = None
        for rule in self._rules:
            if rule.action == "rename" and rule.concerns(ref) and rule.matches(name):
                self._met.add(rule)
                if goal is None:
                    goal = rule.renamed(name)
                    self.note(rule, goal or name)
        return goal

    def of(self, name: str) -> Decision:
        """What happens to the tensor ``name`` of the target: the first rule that matches counts."""
        decision = Decision([Choice() for _ref in self._refs])
        settled: set[int] = set()
        scaled: set[int] = set()
        for rule in self._rules:
            if rule.action == "rename" or not rule.matches(name):
                continue
            concerned = {at for at, ref in enumerate(self._refs) if rule.concerns(ref)}
            if self._refs and not concerned:
                continue
            self._met.add(rule)
            if decision.whole:
                continue
            if rule.action == "take" and rule.rows:
                decision.rows = (*decision.rows, rule)
            elif rule.action in ("merge", "skip", "map"):
                before = scaled if rule.action == "merge" else settled
                for at in concerned - before:
                    _choose(decision.terms[at], rule)
                if self._refs and concerned <= before:
                    continue
                before |= concerned
            elif self._refs and len(settled) == len(self._refs):
                continue
            else:
                decision.keep = rule.action == "keep"
                decision.drop = rule.action == "drop"
                decision.take = rule if rule.action == "take" else None
            self.note(rule, name)
        return decision

    def speaks_of(self, name: str, ref: str) -> Rule | None:
        """The rule that says what becomes of a tensor that the model ``ref`` has, and the
        foundation or the target has not."""
        for rule in self._rules:
            if rule.matches(name) and (
                rule.action == "drop"
                or (rule.action == "skip" and rule.concerns(ref))
                or (rule.action == "take" and not rule.rows)
            ):
                if rule.action != "take":
                    self.note(rule, name)
                return rule
        return None

    def adds(self, name: str) -> Rule | None:
        """The ``take`` rule that brings the tensor ``name``, which the target lacks."""
        for rule in self._rules:
            if rule.action in ("take", "drop") and not rule.rows and rule.matches(name):
                self.note(rule, name)
                return rule if rule.action == "take" else None
        return None

    def check(self, report: Report) -> None:
        """Put the counts into ``report``; raise MergeError where a rule decided nothing."""
        for rule in self._rules:
            if self._decided[rule]:
                report.rules.append({"rule": rule.text, "tensors": len(self._decided[rule])})
            elif rule in self._met:
                raise MergeError(
                    _(
                        "The rule `%(rule)s` decides nothing: earlier rules decide all the tensors "
                        "it matches. The first rule that matches counts."
                    ),
                    rule=rule.text,
                )
            else:
                raise MergeError(
                    _("The rule `%(rule)s` matches no tensor: check its pattern."), rule=rule.text
                )


def _choose(choice: Choice, rule: Rule) -> None:
    if rule.factor is not None:
        choice.factor = float(rule.factor)
    else:
        choice.skip, choice.map = rule.action == "skip", rule.action == "map"
