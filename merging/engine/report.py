"""The alignment report: what happens to every tensor, and why. Nothing is skipped in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import MergeError, _

MERGED, UNTOUCHED, COPIED, KEPT, TAKEN = "merged", "untouched", "copied", "kept", "taken"


@dataclass
class Report:
    """What happens to every tensor. ``cases`` maps a case to tensor names of the result.

    By the label of a term: ``dropped`` are its tensors that neither the target has nor a rule
    speaks of; ``left_out`` those that only it has and a rule leaves out; ``unfounded`` those that
    the target has too (and keeps) and the foundation lacks, so that there is no delta; ``absent``
    are tensors of the target that it, a whole model, lacks.
    ``removed`` are tensors that a rule left out of the result; ``taken_rows`` rows from another
    model; ``rules`` are the rules with the number of tensors each of them decided.
    """

    cases: dict[str, list[str]] = field(
        default_factory=lambda: {MERGED: [], UNTOUCHED: [], COPIED: [], KEPT: [], TAKEN: []}
    )
    shared_rows: list[dict[str, Any]] = field(default_factory=list)
    mapped_rows: list[dict[str, Any]] = field(default_factory=list)
    taken_rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unfounded: dict[str, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    tied: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    collapsed_to: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Plain data for storage and pages."""
        return dict(vars(self))

    def settle(self, untouched: Collection[str]) -> None:
        """Tensors that were to be merged, and by algebra are left as they are."""
        moved = [name for name in self.cases[MERGED] if name in untouched]
        self.cases[MERGED] = [name for name in self.cases[MERGED] if name not in untouched]
        self.cases[UNTOUCHED] += moved

    def refuse_losses(self, labels: Mapping[str, Sequence[str]] | None = None) -> None:
        """Raise MergeError where a model has tensors that would vanish without a word."""
        for label, names in (labels if labels is not None else self.dropped).items():
            if names:
                raise MergeError(
                    _(
                        "%(label)s has `%(tensor)s`%(more)s, which the target lacks: it would "
                        "vanish. Say what you want in `armory: rules:`, such as "
                        "`drop %(tensor)s` or `take %(tensor)s from %(label)s`."
                    ),
                    label=label,
                    tensor=names[0],
                    more=f" (+{len(names) - 1})" if len(names) > 1 else "",
                )
