"""Does a tensor of a term fit, and as which piece? Shapes, types and vocabulary rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vectors.tensorfile.checkpoint import Checkpoint, TensorLike
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.names import VOCABULARY, shape_text

from .errors import MergeError, _
from .pieces import Difference, Piece, Product, Stored, Untouched

if TYPE_CHECKING:
    from .align import Alignment, TermSource


def fit_piece(
    work: Alignment,
    term: TermSource,
    name: str,
    tensor: TensorLike,
    base: TensorLike,
    *,
    by_token: bool,
) -> Piece:
    """The piece that the term's tensor ``name`` is for ``tensor`` of the target.

    Vocabulary tensors of differing length share their leading rows, or, ``by_token``, the rows of
    the same tokens. Raises MergeError for any other difference.
    """
    shape = _shape_of(term, name)
    _check_numbers(term, name, base)
    if by_token:
        from .rowmaps import piece_by_token  # vocabularies are read only where a rule asks

        piece = piece_by_token(work, term, name, tensor, base)
        if piece is not None:
            return piece
    rows = _shared_rows(term, tensor.name, shape, base, tensor)
    if rows is None:
        return _make(term, name, base, tensor.count)
    work.report.shared_rows.append(
        {"term": term.label, "tensor": tensor.name, "rows": rows, "of": tensor.shape[0]}
    )
    per_row = tensor.count // max(tensor.shape[0], 1)
    return _make(term, name, base, rows * per_row)


def fit_untouched(
    work: Alignment, term: TermSource, tensor: TensorLike, base: TensorLike
) -> Untouched:
    """The piece of a term that leaves ``tensor`` as the foundation has it.

    Raises MergeError where an average asks for numbers of the foundation that do not fit.
    """
    if work.operates_on == "models":
        _shared_rows(term, tensor.name, base.shape, base, tensor)
    return Untouched(base, min(base.count, tensor.count))


def _make(term: TermSource, name: str, base: TensorLike, count: int) -> Piece:
    content = term.content
    if isinstance(content, Adapter):
        if name in content.low_rank:
            return Product(content.low_rank[name], base, count)
        return Difference(content.replaced[name], base, count)
    if term.form == "delta":
        return Stored(content.tensors[name], base, count)
    return Difference(content.tensors[name], base, count)


def _shape_of(term: TermSource, name: str) -> tuple[int, ...]:
    content = term.content
    if isinstance(content, Adapter):
        if name in content.low_rank:
            return content.low_rank[name].shape
        return content.replaced[name].shape
    return content.tensors[name].shape


def _check_numbers(term: TermSource, name: str, base: TensorLike) -> None:
    content = term.content
    stored: TensorLike
    if isinstance(content, Checkpoint):
        stored = content.tensors[name]
    else:  # the factors of a LoRA were checked when it was read
        stored = content.replaced.get(name, base)
    for tensor in (stored, base):
        if not DTYPES[tensor.dtype].mergeable:
            raise MergeError(
                _(
                    "`%(tensor)s` is %(dtype)s in %(source)s: it is quantised, so it cannot be "
                    "merged. Use the checkpoint in floating point."
                ),
                tensor=name,
                dtype=tensor.dtype,
                source=term.label if tensor is stored else "the foundation",
            )


def _shared_rows(
    term: TermSource, goal: str, shape: tuple[int, ...], base: TensorLike, tensor: TensorLike
) -> int | None:
    """How many leading rows all three share, None when the shapes are equal; else MergeError."""
    shapes = {shape, base.shape, tensor.shape}
    if len(shapes) == 1:
        return None
    if (
        VOCABULARY.search(goal)
        and all(len(each) == len(shape) >= 1 for each in shapes)
        and len({each[1:] for each in shapes}) == 1
    ):
        return min(each[0] for each in shapes)
    raise MergeError(
        _(
            "`%(tensor)s` is %(term)s in %(label)s, %(base)s in the foundation and %(target)s in "
            "the target: these do not fit together."
        ),
        tensor=goal,
        label=term.label,
        term=shape_text(shape),
        base=shape_text(base.shape),
        target=shape_text(tensor.shape),
    )
