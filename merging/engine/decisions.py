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


class Decisions:
    """The rules, applied by name; it counts which of them decide anything."""

    def __init__(self, rules: Sequence[Rule], terms: Sequence[TermSource]) -> None:
        self._rules = rules
        self._refs = [term.ref for term in terms]
        self._used: dict[Rule, int] = dict.fromkeys(rules, 0)

    def count(self, rule: Rule) -> None:
        """``rule`` decided something about one more tensor."""
        self._used[rule] += 1

    def rename(self, name: str, ref: str) -> str | None:
        """The name in the target that the first ``rename`` for ``ref`` gives, or None."""
        for rule in self._rules:
            if rule.action == "rename" and rule.concerns(ref):
                found = rule.renamed(name)
                if found is not None:
                    self.count(rule)
                    return found
        return None

    def of(self, name: str) -> Decision:
        """What happens to the tensor ``name`` of the target: the first rule that matches counts."""
        decision = Decision([Choice() for _ref in self._refs])
        settled: set[int] = set()
        scaled: set[int] = set()
        for rule in self._rules:
            if rule.action == "rename" or not rule.matches(name):
                continue
            concerned = [at for at, ref in enumerate(self._refs) if rule.concerns(ref)]
            if rule.action == "merge":
                for at in concerned:
                    if at not in scaled and rule.factor is not None:
                        decision.terms[at].factor = float(rule.factor)
                scaled.update(concerned)
            elif rule.action in ("skip", "map"):
                for at in concerned:
                    if at not in settled:
                        decision.terms[at].skip = rule.action == "skip"
                        decision.terms[at].map = rule.action == "map"
                settled.update(concerned)
            elif rule.action == "take" and rule.rows:
                decision.rows = (*decision.rows, rule)
            else:
                decision.keep = rule.action == "keep"
                decision.drop = rule.action == "drop"
                decision.take = rule if rule.action == "take" else None
                self.count(rule)
                return decision
            self.count(rule)
        return decision

    def speaks_of(self, name: str, ref: str) -> bool:
        """Whether a rule says what becomes of a tensor that only the model ``ref`` has."""
        for rule in self._rules:
            said = (rule.action in ("drop", "skip") and rule.concerns(ref)) or (
                rule.action == "take" and not rule.rows
            )
            if said and rule.matches(name):
                if rule.action != "take":
                    self.count(rule)
                return True
        return False

    def check(self, report: Report) -> None:
        """Put the counts into ``report``; raise MergeError where a rule met no tensor."""
        for rule in self._rules:
            if self._used[rule] == 0:
                raise MergeError(
                    _("The rule `%(rule)s` matches no tensor: check its pattern."), rule=rule.text
                )
            report.rules.append({"rule": rule.text, "tensors": self._used[rule]})
