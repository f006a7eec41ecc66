"""Vocabulary tensors brought into the target's order: rows are matched by token, not by place.

Fine-tunes of one foundation often extend its tokenizer, each in its own way, so row 32 005 of an
embedding can be a Chinese word here and an end-of-turn mark there. Chat Vector (2310.04799) skips
such tensors or overwrites single rows, DogeRM (2407.01470) averages the rows of common tokens and
keeps those of others. The views made here say the same in terms of rows; no matrix is copied.

A vocabulary tensor has its rows on the first axis, or is 1 × vocabulary (``final_logits_bias``).
Rows without a token (padding to a multiple of 8 or 64) belong to nobody and stay the target's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.lora import LowRank
from vectors.tensorfile.rows import MappedRows, Zeros

from .errors import MergeError, _
from .tokens import Vocabulary, read_tokens

__all__ = [
    "RowMap",
    "Vocabulary",
    "copy_rows",
    "delta_rows",
    "factor_rows",
    "map_rows",
    "model_rows",
    "read_tokens",
    "row_pairs",
    "stored_rows",
]

LISTED_TOKENS = 50


@dataclass(frozen=True, eq=False)
class RowMap:
    """``rows`` (int64, one for each row of the target): the source's row of the same token, or −1.

    ``only_target`` and ``only_source`` list the first tokens the other side has no row for; their
    counts are whole. Tokens beyond their own matrix count as missing, padding is not counted.
    """

    rows: np.ndarray
    source_rows: int
    shared: int
    only_target: tuple[str, ...]
    only_target_count: int
    only_source: tuple[str, ...]
    only_source_count: int

    @property
    def by_place(self) -> bool:
        """Whether place and token say the same: every token has its row where the source has it,
        and both matrices are equally high. Then rows need no map, and padding can be merged too."""
        place = np.arange(len(self.rows))
        return (
            self.source_rows == len(self.rows)
            and not self.only_target_count
            and not self.only_source_count
            and bool(np.all((self.rows == place) | (self.rows < 0)))
        )

    def as_data(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "shared": self.shared,
            "only_target": {"count": self.only_target_count, "tokens": list(self.only_target)},
            "only_source": {"count": self.only_source_count, "tokens": list(self.only_source)},
        }


def map_rows(
    target: Vocabulary,
    source: Vocabulary,
    target_rows: int,
    source_rows: int,
    *,
    label: str = "the vector",
) -> RowMap:
    """For each of ``target_rows`` rows, the row of ``source`` that holds the same token string.

    Raises MergeError when the two spell their tokens differently: then equal strings would not be
    equal tokens.
    """
    if target.spelling and source.spelling and target.spelling != source.spelling:
        raise MergeError(
            _(
                "The tokens of the target are spelled as %(target)s, those of %(label)s as "
                "%(source)s, so their rows cannot be matched. Keep the target's vocabulary tensors."
            ),
            target=target.spelling,
            label=label,
            source=source.spelling,
        )
    there = _with_rows(source, source_rows)
    here = _with_rows(target, target_rows)
    rows = np.full(target_rows, -1, np.int64)
    for token, row in here.items():
        rows[row] = there.get(token, -1)
    only_target = [token for token in here if token not in there]
    only_source = [token for token in there if token not in here]
    return RowMap(
        rows,
        source_rows,
        len(here) - len(only_target),
        tuple(only_target[:LISTED_TOKENS]),
        len(only_target),
        tuple(only_source[:LISTED_TOKENS]),
        len(only_source),
    )


def _with_rows(vocabulary: Vocabulary, rows: int) -> dict[str, int]:
    """Tokens that have a row in a matrix of ``rows``, in row order."""
    found = [(row, token) for token, row in vocabulary.ids.items() if row < rows]
    return {token: row for row, token in sorted(found)}


def delta_rows(
    target: TensorLike,
    tuned: TensorLike,
    base: TensorLike,
    tuned_map: RowMap,
    base_map: RowMap,
    special: Mapping[int, int] | None = None,
) -> tuple[MappedRows, MappedRows]:
    """Views (tuned, base) in the target's shape whose difference is τ, row by row.

    A token that both the fine-tune and the foundation have gets τ = tuned − base. For any other
    row both views are the target's own row, so τ is exactly zero. ``special`` (target row → row of
    the fine-tune): there τ = tuned − the target's own row, so at coefficient 1 the row becomes
    the fine-tune's. The maps are ``map_rows`` of the target and each of the two.

    Raises MergeError when a map does not belong to its tensor, TensorFileError when the tensors'
    other axes or types do not go together.
    """
    both = (tuned_map.rows >= 0) & (base_map.rows >= 0)
    tuned_rows = np.where(both, tuned_map.rows, -1)
    base_rows = np.where(both, base_map.rows, -1)
    for row, source_row in (special or {}).items():
        tuned_rows[row], base_rows[row] = source_row, -1
    return (
        _over(target, tuned, tuned_rows, tuned_map),
        _over(target, base, base_rows, base_map),
    )


def model_rows(
    target: TensorLike,
    source: TensorLike,
    source_map: RowMap,
    special: Mapping[int, int] | None = None,
) -> MappedRows:
    """``source`` in the target's shape: rows of tokens it lacks are the target's own, so an average
    with the target leaves them. ``special`` (target row → source row) goes before the tokens.

    Raises as ``delta_rows``.
    """
    rows = source_map.rows.copy()
    for row, source_row in (special or {}).items():
        rows[row] = source_row
    return _over(target, source, rows, source_map)


def stored_rows(
    values: TensorLike, values_map: RowMap, base_map: RowMap, *, axis: int | None = None
) -> MappedRows:
    """A stored τ with as many rows as the target, on ``axis`` (told by the shape by default).

    Rows of tokens that the vector or the foundation lacks are zero. Raises as ``delta_rows``.
    """
    both = (values_map.rows >= 0) & (base_map.rows >= 0)
    if axis is None:
        axis = _axis(values, values_map.source_rows)
    elif values.shape[axis] != values_map.source_rows:
        raise _wrong_height(values, values_map.source_rows, axis)
    height = len(values_map.rows)
    shape = (*values.shape[:axis], height, *values.shape[axis + 1 :])
    zeros = Zeros(values.name, values.dtype, shape)
    rows = np.where(both, values_map.rows, np.arange(height))
    which = np.where(both, 0, 1)
    return MappedRows(values.name, [values, zeros], which, rows, axis=axis)


def factor_rows(low_rank: LowRank, values_map: RowMap, base_map: RowMap) -> LowRank:
    """A LoRA of a vocabulary matrix with as many rows as the target; zero where ``stored_rows`` is.

    ``values_map`` maps to the matrix that the adapter was trained on, as high as its product.
    """
    axis = 1 if low_rank.transposed else 0
    left = stored_rows(low_rank.left, values_map, base_map, axis=axis)
    shape = (len(values_map.rows), *low_rank.shape[1:])
    return replace(low_rank, left=left, shape=shape)  # type: ignore[arg-type]


def copy_rows(
    target: TensorLike,
    source: TensorLike,
    wanted: Mapping[str | int, str | int] | Iterable[str | int],
    target_tokens: Vocabulary,
    source_tokens: Vocabulary,
    *,
    label: str = "the vector",
) -> MappedRows:
    """``target`` with the rows of some tokens taken from ``source`` as they are.

    ``wanted`` and the errors are those of ``row_pairs``. The view may have a wider type than the
    target (see MappedRows); rounding to the output's type is for whoever writes it. Raises
    TensorFileError when the tensors do not go together.
    """
    axis = 1 if len(target.shape) > 1 and target.shape[:1] == source.shape[:1] == (1,) else 0
    height, there = ((tensor.shape or (0,))[axis] for tensor in (target, source))
    pairs = row_pairs(wanted, target_tokens, source_tokens, height, there, label=label)
    which, rows = np.zeros(height, np.int64), np.arange(height)
    for row, source_row in pairs.items():
        which[row], rows[row] = 1, source_row
    return MappedRows(target.name, [target, source], which, rows, axis=axis)


def row_pairs(
    wanted: Mapping[str | int, str | int] | Iterable[str | int],
    target: Vocabulary,
    source: Vocabulary,
    target_rows: int,
    source_rows: int,
    *,
    label: str = "the vector",
) -> dict[int, int]:
    """Rows that ``special`` and ``copy_rows`` take over: {target row: source row}.

    ``wanted`` maps a token of the target (string, or row number) to one of the source, or lists
    tokens that are called the same in both. Raises MergeError naming the token that is not there,
    has no row, or is wanted twice.
    """
    mapping = wanted if isinstance(wanted, Mapping) else {token: token for token in wanted}
    pairs: dict[int, int] = {}
    for to, origin in mapping.items():
        row = _row_of(to, target, target_rows, "the target")
        if row in pairs:
            raise MergeError(
                _("Row %(row)d of the target is to be overwritten twice."),
                row=row,
            )
        pairs[row] = _row_of(origin, source, source_rows, label)
    return pairs


def _row_of(token: str | int, vocabulary: Vocabulary, rows: int, label: str) -> int:
    row = vocabulary.ids.get(token) if isinstance(token, str) else token
    if row is None or isinstance(row, bool) or not 0 <= row < rows:
        raise MergeError(
            _("There is no row for the token `%(token)s` in %(label)s (%(rows)d rows)."),
            token=str(token),
            label=label,
            rows=rows,
        )
    return row


def _over(target: TensorLike, source: TensorLike, rows: np.ndarray, made_by: RowMap) -> MappedRows:
    """``rows`` of ``source``, the target's own where −1."""
    axis = _axis(target, len(rows))
    if _axis(source, made_by.source_rows) != axis:
        raise _wrong_height(source, made_by.source_rows)
    own = rows < 0
    return MappedRows(
        target.name,
        [target, source],
        np.where(own, 0, 1),
        np.where(own, np.arange(len(rows)), rows),
        axis=axis,
    )


def _axis(tensor: TensorLike, rows: int) -> int:
    """The axis of a tensor's ``rows``: the first, or the second behind an extent of 1."""
    if tensor.shape[:1] == (rows,):
        return 0
    if tensor.shape[:2] == (1, rows):
        return 1
    raise _wrong_height(tensor, rows)


def _wrong_height(tensor: TensorLike, rows: int, axis: int = 0) -> MergeError:
    if tensor.shape[:1] == (1,) and len(tensor.shape) > 1:
        axis = 1
    return MergeError(
        _("`%(tensor)s` has %(found)d rows where the vocabulary has %(rows)d."),
        tensor=tensor.name,
        found=tensor.shape[axis] if tensor.shape else 0,
        rows=rows,
    )
