"""Alignment: every tensor of target, foundation and terms ends in one stated case.

Nothing is skipped in silence; which name means which tensor is found by ``match_names`` or said by
a ``rename`` rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vectors.tensorfile.checkpoint import Checkpoint, TensorLike
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.names import match_names
from vectors.tensorfile.numbers import compute_dtype

from .decisions import Choice, Decision, Decisions
from .errors import MergeError, _
from .fitting import fit_piece, fit_untouched
from .grafts import additions, grafted, taken
from .pieces import Piece, Untouched
from .report import COPIED, KEPT, MERGED, TAKEN, UNTOUCHED, Report
from .rules import Rule
from .settings import positions
from .tied import tied_twins

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

__all__ = [
    "COPIED", "KEPT", "MERGED", "TAKEN", "UNTOUCHED", "PlannedTensor", "Report", "TermSource",
    "align",
]  # fmt: skip


@dataclass(frozen=True)
class TermSource:
    """The bytes of one model: a ``full`` or ``delta`` checkpoint, or a LoRA adapter.

    ``tokens`` reads its vocabulary; it is asked only where a rule maps rows by token.
    """

    ref: str
    label: str
    form: str
    content: Checkpoint | Adapter
    tokens: Callable[[], Vocabulary] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the tensors the model speaks of."""
        if isinstance(self.content, Adapter):
            return [*self.content.low_rank, *self.content.replaced]
        return list(self.content.tensors)


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """One output tensor: where it comes from, and what each term adds (None: nothing known).

    ``factors`` are what the rules multiply the coefficient of each term with; ``position`` is the
    place among the layers, from 0 to 1.
    """

    name: str
    source: TensorLike
    case: str
    pieces: tuple[Piece | None, ...]
    out_dtype: str
    factors: tuple[float, ...] = ()
    position: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def compute_dtype(self) -> Any:
        """The numpy type that the tensor is computed in."""
        return compute_dtype(self.source.dtype, self.out_dtype)


@dataclass
class Alignment:
    """What ``align`` works on."""

    target: Checkpoint
    foundation: Checkpoint
    terms: Sequence[TermSource]
    extras: Mapping[str, TermSource]
    target_tokens: Callable[[], Vocabulary] | None
    foundation_ref: str
    foundation_tokens: Callable[[], Vocabulary] | None
    decisions: Decisions
    operates_on: str = "deltas"
    report: Report = field(default_factory=Report)
    _goals: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)

    @property
    def foundation_source(self) -> TermSource:
        """The foundation as a model like the others."""
        label, tokens = _("the foundation"), self.foundation_tokens
        return TermSource(self.foundation_ref, label, "full", self.foundation, tokens)

    def goals_of(self, source: TermSource) -> tuple[dict[str, str], str]:
        """Name of a model → its name in the target, and the prefix by which they were matched.

        Raises MergeError where a rule gives two tensors one name.
        """
        if source.ref not in self._goals:
            self._goals[source.ref] = self._find_goals(source)
        return self._goals[source.ref]

    def names_of(self, source: TermSource) -> dict[str, str]:
        """Name in the target → the model's own name; what the target lacks keeps its name."""
        goals, _prefix = self.goals_of(source)
        return {goals.get(name, name): name for name in source.names}

    def _find_goals(self, source: TermSource) -> tuple[dict[str, str], str]:
        names = source.names
        if source.content is self.target:
            return {name: name for name in names}, ""
        renamed = {name: self.decisions.rename(name, source.ref) for name in names}
        if all(goal is None for goal in renamed.values()):
            return match_names(names, self.target.tensors)
        owners: dict[str, str] = {}
        for name, given in renamed.items():
            goal = given or name
            if goal in owners:
                raise MergeError(
                    _(
                        "`%(first)s` and `%(second)s` of %(label)s would both be `%(tensor)s`: "
                        "each tensor needs a name of its own. Change a `rename` rule."
                    ),
                    first=owners[goal],
                    second=name,
                    label=source.label,
                    tensor=goal,
                )
            owners[goal] = name
        return {name: goal for goal, name in owners.items()}, ""


def align(
    target: Checkpoint,
    foundation: Checkpoint,
    terms: Sequence[TermSource],
    *,
    operates_on: str = "deltas",
    out_dtype: str | None = None,
    rules: Sequence[Rule] = (),
    extras: Mapping[str, TermSource] | None = None,
    foundation_ref: str = "",
    target_tokens: Callable[[], Vocabulary] | None = None,
    foundation_tokens: Callable[[], Vocabulary] | None = None,
) -> tuple[list[PlannedTensor], Report]:
    """Decide for each tensor of ``target`` what is merged into it.

    ``extras`` are models that only rules name. Raises MergeError naming the tensor when shapes do
    not fit, and naming the rule that no tensor obeys. The plan keeps target order; tensors that
    rules add come last.
    """
    decisions = Decisions(rules, terms)
    work = Alignment(
        target,
        foundation,
        terms,
        extras or {},
        target_tokens,
        foundation_ref,
        foundation_tokens,
        decisions,
        operates_on,
    )
    base_of = _bases(work)
    found = [_sources(work, term, base_of) for term in terms]
    places = positions(target.tensors)
    planned = []
    for tensor in target.tensors.values():
        decision = decisions.of(tensor.name)
        if decision.drop:
            work.report.removed.append(tensor.name)
            continue
        own = [names.get(tensor.name) for names in found]
        plan = _plan(work, tensor, base_of.get(tensor.name), own, decision)
        planned.append(
            replace(
                plan,
                out_dtype=_final(out_dtype, plan.source, plan.out_dtype),
                position=places.get(tensor.name, 0.0),
            )
        )
    for name, added in additions(work, rules).items():
        out = _final(out_dtype, added, added.dtype)
        planned.append(PlannedTensor(name, added, TAKEN, (), out))
    for plan in planned:
        work.report.cases[plan.case].append(plan.name)
    decisions.check(work.report)
    return planned, work.report


def _final(wanted: str | None, tensor: TensorLike, otherwise: str) -> str:
    """The type that a tensor is written in: what the recipe says, for floating-point numbers."""
    return wanted if wanted and DTYPES[tensor.dtype].mergeable and tensor.count else otherwise


def _plan(
    work: Alignment,
    tensor: TensorLike,
    base: TensorLike | None,
    own: Sequence[str | None],
    decision: Decision,
) -> PlannedTensor:
    """What becomes of one tensor of the target; ``own`` are the terms' names for it."""
    source: TensorLike = tensor
    pieces: tuple[Piece | None, ...] = ()
    if decision.take is not None:
        source, case = taken(work, tensor.name, decision.take), TAKEN
    elif decision.stays:
        case = KEPT if decision.keep else _case(work, tensor, base, ())
    else:
        pieces = tuple(
            _piece(work, term, name, tensor, base, choice)
            for term, name, choice in zip(work.terms, own, decision.terms, strict=True)
        )
        case = _case(work, tensor, base, pieces)
    out, factors = source.dtype, tuple(choice.factor for choice in decision.terms)
    if decision.rows:
        graft = grafted(work, source, decision.rows)
        source = graft.tensor
        pieces = tuple(graft.spare(piece, work.operates_on) for piece in pieces)
        case = MERGED if case == MERGED else TAKEN
    if case != MERGED:
        pieces = ()
    elif work.operates_on == "models" and not any(factors):
        raise MergeError(
            _("The rules leave `%(tensor)s` no weight to average with: use `keep %(tensor)s`."),
            tensor=tensor.name,
        )
    return PlannedTensor(tensor.name, source, case, pieces, out, factors)


def _bases(work: Alignment) -> dict[str, TensorLike]:
    """Tensor of the target → the foundation's. A matrix that the target stores twice and the
    foundation once is one matrix."""
    goals, _prefix = work.goals_of(work.foundation_source)
    stored = work.target.tensors
    found: dict[str, TensorLike] = {
        goal: work.foundation.tensors[name] for name, goal in goals.items() if goal in stored
    }
    lacking = [name for name in stored if name not in found and len(stored[name].shape) == 2]
    twins = tied_twins(work.target, lacking)
    tied = {name: twin for name, twin in twins.items() if twin in found}
    if tied:
        work.report.tied[work.foundation_source.label] = tied
    return found | {name: found[twin] for name, twin in tied.items()}


def _sources(work: Alignment, term: TermSource, base_of: Mapping[str, Any]) -> dict[str, str]:
    """Tensor of the target → the term's own name for it; the rest is reported."""
    report, target = work.report, work.target
    goals, prefix = work.goals_of(term)
    if prefix:
        report.renamed[term.label] = prefix
    found: dict[str, str] = {}
    rest: dict[str, str] = {}
    for name in term.names:
        goal = goals.get(name, name)
        if name in goals and goal in base_of:
            found[goal] = name
        else:
            rest[name] = goal
    if isinstance(term.content, Checkpoint) and term.form == "full":
        rest = _untie(work, term, term.content, found, rest, base_of)
    for name, goal in rest.items():
        rule = work.decisions.speaks_of(goal, term.ref)
        if rule is not None and rule.action == "take":
            if rule.source != term.ref:
                report.left_out.setdefault(term.label, []).append(name)
        elif goal in target.tensors:
            if term.content is not target:
                report.unfounded.setdefault(term.label, []).append(name)
        elif rule is not None:
            report.left_out.setdefault(term.label, []).append(name)
        else:
            report.dropped.setdefault(term.label, []).append(name)
    return found


def _untie(
    work: Alignment,
    term: TermSource,
    content: Checkpoint,
    found: dict[str, str],
    rest: dict[str, str],
    base_of: Mapping[str, Any],
) -> dict[str, str]:
    """A matrix that one side stores twice and the other once is one matrix.

    A second copy in the term is no loss; a second copy in the target gets what the first gets.
    """
    unsaid = [name for name in rest if work.decisions.speaks_of(rest[name], term.ref) is None]
    tied = tied_twins(content, unsaid)
    missing = [name for name in base_of if name not in found]
    for name, twin in tied_twins(work.target, missing).items():
        if twin in found:
            found[name] = found[twin]
            tied[name] = twin
    if tied:
        work.report.tied[term.label] = tied
    return {name: goal for name, goal in rest.items() if name not in tied}


def _case(
    work: Alignment, tensor: TensorLike, base: TensorLike | None, pieces: Sequence[Piece | None]
) -> str:
    if not _mergeable(tensor):
        return COPIED
    if base is None:
        return KEPT
    if work.operates_on == "models":
        if any(piece is None for piece in pieces):
            return KEPT
        return MERGED if pieces else UNTOUCHED
    touched = any(piece is not None and not isinstance(piece, Untouched) for piece in pieces)
    return MERGED if touched else UNTOUCHED


def _mergeable(tensor: TensorLike) -> bool:
    return DTYPES[tensor.dtype].mergeable and tensor.count > 0


def _piece(
    work: Alignment,
    term: TermSource,
    name: str | None,
    tensor: TensorLike,
    base: TensorLike | None,
    choice: Choice,
) -> Piece | None:
    if base is None or not _mergeable(tensor):
        return None
    if choice.skip or (choice.factor == 0 and work.operates_on == "deltas"):
        return fit_untouched(work, term, tensor, base)
    if name is None:
        if term.form == "full":
            work.report.absent.setdefault(term.label, []).append(tensor.name)
            return None
        return fit_untouched(work, term, tensor, base)
    return fit_piece(work, term, name, tensor, base, by_token=choice.map)
