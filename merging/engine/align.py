"""Alignment: every tensor of target, foundation and terms ends in one stated case.

Nothing is skipped in silence; which name means which tensor is found by ``match_names`` or said by
a ``rename`` rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.names import match_names

from .decisions import Decisions
from .errors import MergeError, _
from .fitting import fit_piece
from .pieces import Piece, TensorLike, Untouched
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
    operates_on: str = "deltas"
    report: Report = field(default_factory=Report)


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
    work = Alignment(
        target,
        foundation,
        terms,
        extras or {},
        target_tokens,
        foundation_ref,
        foundation_tokens,
        operates_on,
    )
    report = work.report
    decisions = Decisions(rules, terms)
    base_names, _prefix = _goals(
        list(foundation.tensors), foundation_ref, target.tensors, decisions
    )
    base_of = {goal: foundation.tensors[name] for name, goal in base_names.items()}
    found = [_sources(work, term, base_of, decisions) for term in terms]
    places = positions(target.tensors)
    planned = []
    for tensor in target.tensors.values():
        decision = decisions.of(tensor.name)
        if decision.drop:
            report.removed.append(tensor.name)
            continue
        if decision.take is not None:
            planned.append(_taken(work, tensor.name, decision.take, decisions, out_dtype))
            continue
        mergeable = DTYPES[tensor.dtype].mergeable and tensor.count > 0
        base = base_of.get(tensor.name)
        pieces = tuple(
            _piece(work, term, names.get(tensor.name), tensor, base, decision.terms[at])
            for at, (term, names) in enumerate(zip(terms, found, strict=True))
        )
        case = _case(mergeable, base, pieces, operates_on, target is foundation, decision.keep)
        source: TensorLike = tensor
        for rule in decision.rows:
            source = _with_rows(work, source, rule, decisions)
            case = TAKEN if case != MERGED else case
        report.cases[case].append(tensor.name)
        final = out_dtype if out_dtype and mergeable else tensor.dtype
        planned.append(
            PlannedTensor(
                tensor.name,
                source,
                case,
                pieces if case == MERGED else (),
                final,
                tuple(choice.factor for choice in decision.terms),
                places.get(tensor.name, 0.0),
            )
        )
    planned += _additions(work, rules, decisions, out_dtype)
    decisions.check(report)
    return planned, report


def _goals(
    names: Sequence[str], ref: str, wanted: Mapping[str, Any], decisions: Decisions
) -> tuple[dict[str, str], str]:
    """Name of a model → name in the target, and the prefix by which they were matched."""
    renamed = {name: decisions.rename(name, ref) for name in names}
    if any(goal is not None for goal in renamed.values()):
        goals = {name: goal if goal is not None else name for name, goal in renamed.items()}
        return {name: goal for name, goal in goals.items() if goal in wanted}, ""
    return match_names(names, wanted)


def _sources(
    work: Alignment, term: TermSource, base_of: Mapping[str, Any], decisions: Decisions
) -> dict[str, str]:
    """Tensor of the target → the term's own name for it; the rest is reported."""
    report = work.report
    goals, prefix = _goals(term.names, term.ref, work.target.tensors, decisions)
    if prefix:
        report.renamed[term.label] = prefix
    found: dict[str, str] = {}
    lost = []
    for name in term.names:
        goal = goals.get(name)
        if goal is not None and goal in base_of:
            found[goal] = name
        elif not decisions.speaks_of(goal or decisions.rename(name, term.ref) or name, term.ref):
            lost.append(name)
    if isinstance(term.content, Checkpoint) and term.form == "full":
        lost = _untie(work, term, term.content, found, lost, base_of)
    if lost:
        report.dropped[term.label] = lost
    return found


def _untie(
    work: Alignment,
    term: TermSource,
    content: Checkpoint,
    found: dict[str, str],
    lost: list[str],
    base_of: Mapping[str, Any],
) -> list[str]:
    """A matrix that one side stores twice and the other once is one matrix.

    A second copy in the term is no loss; a second copy in the target gets what the first gets.
    """
    tied: dict[str, str] = {}
    if lost:
        twins = tied_twins(content)
        tied |= {name: twins[name] for name in lost if name in twins}
    missing = [name for name in base_of if name not in found]
    if missing:
        twins = tied_twins(work.target)
        for name in missing:
            twin = twins.get(name)
            if twin in found:
                found[name] = found[twin]
                tied[name] = twin
    if tied:
        work.report.tied[term.label] = tied
    return [name for name in lost if name not in tied]


def _case(
    mergeable: bool,
    base: TensorLike | None,
    pieces: Sequence[Piece | None],
    operates_on: str,
    target_is_foundation: bool,
    keep: bool,
) -> str:
    if not mergeable:
        return COPIED
    if base is None or keep:
        return KEPT
    if operates_on == "models":
        if any(piece is None for piece in pieces):
            return KEPT
        if target_is_foundation and all(isinstance(piece, Untouched) for piece in pieces):
            return UNTOUCHED
        return MERGED if pieces else UNTOUCHED
    touched = any(piece is not None and not isinstance(piece, Untouched) for piece in pieces)
    return MERGED if touched else UNTOUCHED


def _piece(
    work: Alignment,
    term: TermSource,
    name: str | None,
    tensor: TensorLike,
    base: TensorLike | None,
    choice: Any,
) -> Piece | None:
    if base is None or not DTYPES[tensor.dtype].mergeable or tensor.count == 0:
        return Untouched(base, min(base.count, tensor.count)) if base is not None else None
    if choice.skip:
        return Untouched(base, min(base.count, tensor.count))
    if name is None:
        if term.form == "full":
            work.report.absent.setdefault(term.label, []).append(tensor.name)
            return None
        return Untouched(base, min(base.count, tensor.count))
    return fit_piece(work, term, name, tensor, base, by_token=choice.map)


def _taken(
    work: Alignment, goal: str, rule: Rule, decisions: Decisions, out_dtype: str | None
) -> PlannedTensor:
    source = _model(work, rule)
    names = {decisions.rename(name, source.ref) or name: name for name in source.names}
    if goal not in names or isinstance(source.content, Adapter):
        raise MergeError(
            _("The rule `%(rule)s`: %(label)s has no `%(tensor)s` to take."),
            rule=rule.text,
            label=source.label,
            tensor=goal,
        )
    tensor = source.content.tensors[names[goal]]
    work.report.cases[TAKEN].append(goal)
    final = out_dtype if out_dtype and DTYPES[tensor.dtype].mergeable else tensor.dtype
    return PlannedTensor(goal, tensor, TAKEN, (), final)


def _additions(
    work: Alignment, rules: Sequence[Rule], decisions: Decisions, out_dtype: str | None
) -> list[PlannedTensor]:
    """Tensors that ``take`` rules bring and the target does not have."""
    added: dict[str, PlannedTensor] = {}
    for rule in rules:
        if rule.action != "take" or rule.rows:
            continue
        source = _model(work, rule)
        for name in source.names:
            goal = decisions.rename(name, source.ref) or name
            if rule.matches(goal) and goal not in work.target.tensors and goal not in added:
                decisions.count(rule)
                added[goal] = _taken(work, goal, rule, decisions, out_dtype)
    return list(added.values())


def _with_rows(work: Alignment, tensor: TensorLike, rule: Rule, decisions: Decisions) -> TensorLike:
    from .vocabulary import copy_rows  # vocabularies are read only where a rule asks

    source = _model(work, rule)
    names = {decisions.rename(name, source.ref) or name: name for name in source.names}
    name = names.get(tensor.name)
    if name is None or isinstance(source.content, Adapter):
        raise MergeError(
            _("The rule `%(rule)s`: %(label)s has no `%(tensor)s` to take."),
            rule=rule.text,
            label=source.label,
            tensor=tensor.name,
        )
    return copy_rows(
        tensor,
        source.content.tensors[name],
        dict(rule.rows),
        tokens_of(work.target_tokens, _("the target")),
        tokens_of(source.tokens, source.label),
        label=source.label,
    )


def _model(work: Alignment, rule: Rule) -> TermSource:
    """The model a ``take`` rule names: a term, the foundation, or one only it names."""
    for term in work.terms:
        if term.ref == rule.source:
            return term
    if rule.source in work.extras:
        return work.extras[rule.source]
    if rule.source == work.foundation_ref:
        return TermSource(
            work.foundation_ref,
            _("the foundation"),
            "full",
            work.foundation,
            work.foundation_tokens,
        )
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
