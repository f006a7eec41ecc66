"""From a planned tensor to the bytes of any run of its elements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.names import VOCABULARY
from vectors.tensorfile.numbers import narrow

from .algebra import single_source
from .align import MERGED, UNTOUCHED, PlannedTensor
from .block import BLOCK_ELEMENTS, Block, Workspace
from .errors import MergeError, _
from .kernels import add_scaled, finish_bf16, has_broken
from .methods import Arguments, Method
from .pieces import Difference, Untouched
from .recipe import WEIGHT, Recipe, full_values
from .settings import evaluate
from .whole import Whole


class Results(Protocol):
    """Keeps the updates of whole-tensor methods, so that each is computed once."""

    def get(self, name: str) -> np.ndarray | None:
        """The update of the tensor ``name``, or None."""

    def put(self, name: str, update: np.ndarray) -> None:
        """Keep the update of the tensor ``name``."""


@dataclass
class Combination:
    """How the terms of a plan are combined: method, weights, parameters, random seed.

    ``labels`` name the terms in errors. Statistics of a tensor are computed once and kept.
    """

    method: Method
    recipe: Recipe
    labels: Sequence[str] = ()
    device: str = "cpu"
    results: Results | None = None
    _arguments: dict[str, Arguments] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def by_tensor(self) -> bool:
        """Whether a tensor is best computed by one thread, start to end."""
        return self.method.prepare is not None or self.method.whole is not None

    @property
    def block_elements(self) -> int:
        """How many elements are best computed at a time."""
        # Fused loops keep 16-bit numbers, so twice as many fit into the cache.
        return BLOCK_ELEMENTS * (2 if self.method.fused else 1)

    def merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """Bytes (uint8) of the elements ``[lo, hi)`` of an output tensor.

        Raises MergeError where the result holds an infinity or a NaN.
        """
        raw = work.array("out", (hi - lo) * DTYPES[tensor.out_dtype].size, np.uint8)
        dtype = tensor.compute_dtype
        block = Block(tensor.source, tensor.pieces, lo, hi, dtype, work)
        if tensor.case != MERGED:
            narrow(block.target(), tensor.out_dtype, raw)
        else:
            self._combine(tensor, block, raw)
        if has_broken(raw, tensor.out_dtype):
            self._explain(tensor, lo, hi, work)
        return raw

    def write(
        self, tensor: PlannedTensor, lo: int, hi: int, goal: tuple[int, int], work: Workspace
    ) -> bool:
        """Write bytes ``[lo, hi)`` of an output tensor to ``goal`` (descriptor, place) at once.

        False where the method has no such way for it; then ``merge`` is to be asked.
        """
        direct = self.method.direct
        if direct is None or tensor.case != MERGED or lo % 2 or hi % 2:
            return False
        if not tensor.out_dtype == tensor.source.dtype == "BF16":
            return False
        span = (lo // 2, hi // 2)
        return direct(tensor, self.arguments(tensor, work), span, goal, work)

    def change(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """What the merge adds to the numbers ``[lo, hi)`` of the tensor's source, unrounded: (n,).

        For methods on deltas the very numbers that ``merge`` adds before it rounds.
        """
        dtype = tensor.compute_dtype
        if tensor.case != MERGED:
            return np.zeros(hi - lo, dtype)
        block = Block(tensor.source, tensor.pieces, lo, hi, dtype, work)
        arguments = self.arguments(tensor, work)
        if self._is_whole(tensor):
            update = self._update(tensor, arguments, work)[lo:hi]
        else:
            update = self.method.combine(block, arguments)
            if self.method.operates_on == "models":
                merged = update.copy()  # the method's scratch may be the target's
                return np.subtract(merged, block.target(), out=merged)
        return update * update.dtype.type(arguments.values.get("lambda", 1.0))

    def _combine(self, tensor: PlannedTensor, block: Block, raw: np.ndarray) -> None:
        arguments = self.arguments(tensor, block.work)
        method = self.method
        if self._is_whole(tensor):
            update = self._update(tensor, arguments, block.work)[block.lo : block.hi]
        else:
            plain = tensor.out_dtype == "BF16"
            if plain and method.fused is not None and method.fused(block, arguments, raw):
                return
            update = method.combine(block, arguments)
            if method.operates_on == "models":
                narrow(update, tensor.out_dtype, raw)
                return
        factor = arguments.values.get("lambda", 1.0)
        stored = block.raw_target() if tensor.out_dtype == "BF16" else None
        if stored is not None and update.dtype == np.float32:
            finish_bf16(stored, factor, update, raw.view(np.uint16))
            return
        merged = block.target()
        add_scaled(merged, factor, update)
        narrow(merged, tensor.out_dtype, raw)

    def arguments(self, tensor: PlannedTensor, work: Workspace) -> Arguments:
        """The method's arguments for ``tensor``; statistics are taken at the first call."""
        found = self._arguments.get(tensor.name)
        if found is not None:
            return found
        with self._guard:
            lock = self._locks.setdefault(tensor.name, threading.Lock())
        with lock:
            found = self._arguments.get(tensor.name)
            if found is None:
                found = arguments_of(self.method, self.recipe, tensor, self.device)
                if self.method.prepare is not None and not self._is_whole(tensor):
                    whole = self._whole(tensor, work)
                    try:
                        found = replace(found, state=self.method.prepare(whole, found))
                    except MergeError:
                        self._find_broken(tensor, 0, tensor.source.count, work)
                        raise
                self._arguments[tensor.name] = found
        return found

    def _whole(self, tensor: PlannedTensor, work: Workspace) -> Whole:
        dtype = tensor.compute_dtype
        return Whole(tensor.source, tensor.pieces, dtype, work)

    def _is_whole(self, tensor: PlannedTensor) -> bool:
        """Whether ``tensor`` is a matrix that the method treats as one."""
        shape = tensor.shape
        return (
            self.method.whole is not None
            and len(shape) > 1
            and min(shape[0], int(np.prod(shape[1:]))) > 1
            and not VOCABULARY.search(tensor.name)
        )

    def _update(self, tensor: PlannedTensor, arguments: Arguments, work: Workspace) -> np.ndarray:
        if work.held is not None and work.held[0] is tensor:
            held: np.ndarray = work.held[1]
            return held
        with self._guard:
            lock = self._locks.setdefault(tensor.name, threading.Lock())
        with lock:
            update = self.results.get(tensor.name) if self.results else None
            if update is None:
                assert self.method.whole is not None
                try:
                    update = self.method.whole(self._whole(tensor, Workspace()), arguments)
                except MergeError:
                    self._find_broken(tensor, 0, tensor.source.count, Workspace())
                    raise
                update = update.reshape(-1)
                if self.results:
                    self.results.put(tensor.name, update)
        work.held = tensor, update
        return update

    def _explain(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> None:
        """Raise MergeError: which number was broken from the start, or that the sum overflows."""
        self._find_broken(tensor, lo, hi, work)
        raise MergeError(
            _(
                "`%(tensor)s` does not fit into %(dtype)s: the merged numbers are too large. Use "
                "smaller coefficients or another out_dtype (bfloat16, float32)."
            ),
            tensor=tensor.name,
            dtype=tensor.out_dtype,
        )

    def _find_broken(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> None:
        """Raise MergeError where a source holds an infinity or a NaN among these elements."""
        for first in range(lo, hi, BLOCK_ELEMENTS):
            self._find_broken_block(tensor, first, min(first + BLOCK_ELEMENTS, hi), work)

    def _find_broken_block(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> None:
        block = Block(tensor.source, tensor.pieces, lo, hi, np.float64, work)
        sources: list[tuple[str, Callable[[], np.ndarray]]] = [(_("the target"), block.target)]
        if tensor.case == MERGED:
            sources.append((_("the foundation"), block.base))
            for term in block.terms:
                label = self.labels[term] if term < len(self.labels) else f"{term + 1}"
                sources.append((label, lambda term=term: block.delta(term)))  # type: ignore[misc]
        for label, read in sources:
            numbers = read()
            broken = np.flatnonzero(~np.isfinite(numbers))
            if broken.size:
                raise MergeError(
                    _(
                        "`%(tensor)s` of %(label)s holds %(value)s (element %(at)d): the "
                        "checkpoint is broken. Use another one, or a rule `keep %(tensor)s`."
                    ),
                    tensor=tensor.name,
                    label=label,
                    value="NaN" if np.isnan(numbers[broken[0]]) else "infinity",
                    at=lo + int(broken[0]),
                )


def arguments_of(
    method: Method, recipe: Recipe, tensor: PlannedTensor, device: str = "cpu"
) -> Arguments:
    """Weights and parameters for one tensor: settings evaluated for its name and layer."""
    name, place = tensor.name, tensor.position
    factors = tensor.factors or (1.0,) * len(recipe.terms)
    weights = []
    terms = []
    for term, factor in zip(recipe.terms, factors, strict=True):
        weight = float(term.coefficient)
        if "weight" in term.parameters:
            weight *= evaluate(term.parameters["weight"], name, place)
        weights.append(weight * factor if factor != 1 else weight)
        own = {key: value for key, value in term.parameters.items() if key != WEIGHT.name}
        terms.append(full_values(method, {**recipe.parameters, **own}, name, place))
    return Arguments(
        tensor=name,
        shape=tensor.shape,
        weights=tuple(weights),
        values=full_values(method, recipe.parameters, name, place),
        terms=tuple(terms),
        # By place, not by reference: the catalogue knows vectors by digest, a folder by name, and
        # both are to give the same bytes.
        keys=tuple(str(place) for place in range(len(recipe.terms))),
        seed=recipe.seed,
        device=device,
    )


@lru_cache(maxsize=4096)
def _exact(coefficient: Decimal, factor: float) -> Fraction:
    return Fraction(coefficient) * Fraction(str(factor))


def collapsed(
    method: Method, recipe: Recipe, tensor: PlannedTensor, full_terms: set[str]
) -> PlannedTensor:
    """``tensor`` as a plain copy where its sum is, by algebra, one stored tensor.

    The whole recipe may not collapse (a rule, a schedule), while single tensors do.
    """
    if tensor.case != MERGED:
        return tensor
    left_alone = method.operates_on == "models" and all(
        isinstance(piece, Untouched) and piece.base is tensor.source for piece in tensor.pieces
    )
    if method.linear_weights is None:
        return replace(tensor, case=UNTOUCHED) if left_alone else tensor
    if any(set(term.parameters) - {WEIGHT.name} for term in recipe.terms):
        return tensor
    arguments = arguments_of(method, recipe, tensor)
    factors = tensor.factors or (1.0,) * len(recipe.terms)
    coefficients = []
    for term, factor, weight in zip(recipe.terms, factors, arguments.weights, strict=True):
        plain = "weight" not in term.parameters
        exact = _exact(term.coefficient, factor) if plain else Fraction(weight)
        coefficients.append(exact)
    if arguments.values.get("normalize") and sum(coefficients) == 0:
        return tensor
    if left_alone:
        weights = method.linear_weights(coefficients, arguments.values)
        same_number = weights is None or sum(weights) == 1
        return replace(tensor, case=UNTOUCHED) if same_number else tensor
    stored: dict[str, Any] = {recipe.target: tensor.source}
    for term, piece in zip(recipe.terms, tensor.pieces, strict=True):
        if piece is None or piece.count < max(tensor.source.count, piece.base.count):
            return tensor
        stored.setdefault(recipe.foundation, piece.base)
        if isinstance(piece, Untouched):
            stored[term.ref] = piece.base
        elif isinstance(piece, Difference) and term.ref in full_terms:
            stored[term.ref] = piece.tuned
    # A tensor that a term leaves alone stands for the foundation's: the same number twice.
    same = {ref: recipe.foundation for ref, found in stored.items()
            if found is stored.get(recipe.foundation)}  # fmt: skip
    found = single_source(
        method,
        coefficients,
        arguments.values,
        target=same.get(recipe.target, recipe.target),
        foundation=recipe.foundation,
        terms=[same.get(term.ref, term.ref) for term in recipe.terms],
        whole=set(stored),
    )
    if found is None or stored[found].shape != tensor.shape:
        return tensor
    source = stored[found]
    dtype = tensor.out_dtype if tensor.out_dtype != tensor.source.dtype else source.dtype
    if dtype != tensor.out_dtype:
        return tensor
    return replace(tensor, source=source, case="taken" if source is not tensor.source else "kept")
