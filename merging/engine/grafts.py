"""What ``take`` rules bring from other models as it is: whole tensors, and single rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.lora import Adapter

from .errors import MergeError, _
from .pieces import Piece, Untouched
from .rules import Rule
from .workspace import Workspace

if TYPE_CHECKING:
    from .align import Alignment, TermSource
    from .vocabulary import Vocabulary


def taken(work: Alignment, goal: str, rule: Rule) -> TensorLike:
    """The tensor that the model of ``rule`` has for ``goal`` (a name in the target).

    Raises MergeError where the model has no such tensor, or only a change of it.
    """
    source = model_of(work, rule)
    name = work.names_of(source).get(goal)
    content = source.content
    if isinstance(content, Adapter):
        if name in content.replaced:  # modules_to_save: a head that was trained whole
            return content.replaced[name]
        changes = name in content.low_rank
    else:
        if name is not None and source.form != "delta":
            return content.tensors[name]
        changes = name is not None
    if changes:
        raise MergeError(
            _(
                "The rule `%(rule)s`: %(label)s holds a change of `%(tensor)s`, not the tensor "
                "itself. Take it from a whole model, or merge it."
            ),
            rule=rule.text,
            label=source.label,
            tensor=goal,
        )
    raise MergeError(
        _("The rule `%(rule)s`: %(label)s has no `%(tensor)s` to take."),
        rule=rule.text,
        label=source.label,
        tensor=goal,
    )


def additions(work: Alignment, rules: Sequence[Rule]) -> dict[str, TensorLike]:
    """Tensors that ``take`` rules bring and the target does not have, by name."""
    added: dict[str, TensorLike] = {}
    for rule in rules:
        if rule.action != "take" or rule.rows:
            continue
        for goal in work.names_of(model_of(work, rule)):
            if goal not in work.target.tensors and work.decisions.adds(goal) == rule:
                added[goal] = taken(work, goal, rule)
    return added


@dataclass(frozen=True, eq=False)
class Graft:
    """A tensor with rows of another model in it; ``runs`` (n, 2) of its elements are those rows."""

    tensor: TensorLike
    runs: np.ndarray

    def spare(self, piece: Piece | None, operates_on: str) -> Piece | None:
        """``piece`` without a say in the rows that were taken."""
        if piece is None or (operates_on == "deltas" and isinstance(piece, Untouched)):
            return piece
        return Spared(piece, self)


def grafted(work: Alignment, tensor: TensorLike, rules: Sequence[Rule]) -> Graft:
    """``tensor`` with the rows that ``rules`` take; where two want a row, the first one counts.

    Raises MergeError naming the token, the model without a tokenizer, or the missing tensor.
    """
    from .vocabulary import copy_rows, row_pairs  # read only where a rule asks

    name, axis = tensor.name, int(tensor.shape[:1] == (1,) and len(tensor.shape) > 1)
    height = tensor.shape[axis] if tensor.shape else 0
    marked = np.zeros(height, bool)
    for rule in reversed(rules):
        source, wanted = model_of(work, rule), dict(rule.rows)
        donor = taken(work, name, rule)
        tokens = tokens_of(work.target_tokens, _("the target"))
        theirs = tokens_of(source.tokens, source.label)
        tensor = copy_rows(tensor, donor, wanted, tokens, theirs, label=source.label)
        rows = donor.shape[axis] if len(donor.shape) > axis else 0
        pairs = row_pairs(wanted, tokens, theirs, height, rows, label=source.label)
        marked[list(pairs)] = True
        work.report.taken_rows.append(
            {"from": source.label, "tensor": name, "rows": dict(rule.rows), "of": height}
        )
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marked.view(np.int8), [0]))))
    return Graft(tensor, edges.reshape(-1, 2) * (tensor.count // max(height, 1)))


@dataclass(frozen=True, eq=False)
class Spared:
    """A piece that leaves grafted rows alone: there its delta is 0, and its model the graft."""

    piece: Piece
    graft: Graft

    @property
    def base(self) -> TensorLike:
        """The foundation's tensor."""
        return self.piece.base

    @property
    def count(self) -> int:
        """How many leading elements the delta covers."""
        return self.piece.count

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        """Write τ[lo:hi] to ``out``."""
        self.piece.delta(lo, hi, out, work)
        for first, last in self._runs(lo, hi):
            out[first - lo : last - lo] = 0

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        """Write (θ + τ)[lo:hi] to ``out``."""
        self.piece.model(lo, hi, out, work)
        for first, last in self._runs(lo, hi):
            work.read(self.graft.tensor, first, last, out[first - lo : last - lo], "term raw")

    def _runs(self, lo: int, hi: int) -> list[tuple[int, int]]:
        runs = self.graft.runs
        met = runs[(runs[:, 0] < hi) & (runs[:, 1] > lo)]
        return [(max(int(first), lo), min(int(last), hi)) for first, last in met]


def model_of(work: Alignment, rule: Rule) -> TermSource:
    """The model a ``take`` rule names: a term, the foundation, or one only it names."""
    known = {**work.extras, **{term.ref: term for term in work.terms}}
    if rule.source in known:
        return known[rule.source]
    if rule.source == work.foundation_ref:
        return work.foundation_source
    raise MergeError(
        _("The rule `%(rule)s` names %(ref)s, which is no part of the recipe."),
        rule=rule.text,
        ref=str(rule.source),
    )


def tokens_of(read: Callable[[], Vocabulary] | None, label: str) -> Vocabulary:
    """The vocabulary of a model; raises MergeError where none is known."""
    if read is None:
        raise MergeError(
            _(
                "Rows are matched by token, but no tokenizer of %(label)s is known: add its "
                "tokenizer.json."
            ),
            label=label,
        )
    return read()
