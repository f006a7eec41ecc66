"""The linear algebra of the whole-tensor methods: numpy on the CPU, torch on a GPU.

``device == "cpu"`` computes with numpy, anything else is a torch device (``"cuda"``, ``"cuda:1"``;
``"cpu:0"`` is torch on the CPU). Arrays of either kind share the operators the methods use
(``@ * + - **``, slices, ``.T``, ``.sum``); what differs is here.

On the CPU one BLAS thread computes while a method runs (`one_thread`): the bits of a matrix product
depend on how it is shared out, and two threads on two busy cores are slower than one. The bits
still depend on the processor's kernels, so they are the same on the same kind of machine only.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from merging.engine.errors import MergeError, _

Array = Any  # np.ndarray on the CPU, torch.Tensor elsewhere

Given = ParamSpec("Given")
Found = TypeVar("Found")


class _OneThread:
    """Holds OpenBLAS at one thread while anybody is inside, and gives the setting back after.

    The setting belongs to the process. Counting who is inside keeps the first to leave from
    raising it under the others. Without OpenBLAS (numpy of another make) nothing happens.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 1
        self._get = _openblas("get_num_threads")
        self._set = _openblas("set_num_threads")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and self._get and self._set:
                self._before = self._get()
                self._set(1)
            self._inside += 1

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._set:
                self._set(self._before)


def _openblas(name: str) -> Callable[..., int] | None:
    """The function of that name in the OpenBLAS that numpy is linked with, or None."""
    # The library's own symbols are found through the module that depends on it.
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    for symbol in (f"scipy_openblas_{name}64_", f"openblas_{name}64_", f"openblas_{name}"):
        if hasattr(library, symbol):
            return getattr(library, symbol)
    return None


_ONE_THREAD = _OneThread()


def one_thread(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Run ``function`` with a single BLAS thread."""

    @wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        with _ONE_THREAD:
            return function(*args, **kwargs)

    return wrapped


def put(array: np.ndarray, device: str = "cpu", dtype: Any = None) -> Array:
    """``array`` on ``device``, as ``dtype`` (a numpy type; None keeps it)."""
    array = np.asarray(array, dtype=dtype)
    if device == "cpu":
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def host(array: Array, dtype: Any = None) -> np.ndarray:
    """``array`` as numpy, as ``dtype``."""
    if hasattr(array, "cpu"):
        array = array.cpu().numpy()
    return np.asarray(array, dtype=dtype)


def matmul(a: Array, b: Array) -> Array:
    """a (m, k) · b (k, n)."""
    return a @ b


def concat(parts: Sequence[Array], axis: int) -> Array:
    """The matrices side by side (axis 1) or one above the other (axis 0)."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=axis)
    import torch

    return torch.cat(list(parts), dim=axis)


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """U (m, k), s (k,) falling, Vᵀ (k, n) with k = min(m, n); U · diag(s) · Vᵀ = ``matrix``.

    Raises MergeError where LAPACK finds no decomposition.
    """
    if isinstance(matrix, np.ndarray):
        try:
            return tuple(np.linalg.svd(matrix, full_matrices=False))  # type: ignore[return-value]
        except np.linalg.LinAlgError:
            pass
        # The divide-and-conquer routine fails on rare matrices; the transpose takes another path.
        try:
            V, s, Ut = np.linalg.svd(np.ascontiguousarray(matrix.T), full_matrices=False)
        except np.linalg.LinAlgError:
            raise _no_values(matrix) from None
        return Ut.T, s, V.T
    import torch

    try:
        # In double precision: CUDA's routine for float32 is right to three digits only.
        found = torch.linalg.svd(matrix.double(), full_matrices=False)
    except torch.linalg.LinAlgError:
        raise _no_values(matrix) from None
    U, s, Vt = (part.to(matrix.dtype) for part in found)
    return U, s, Vt


def _no_values(matrix: Array) -> MergeError:
    return MergeError(
        _(
            "The singular values of a tensor of %(rows)d × %(columns)d numbers cannot be "
            "computed. Choose a method that needs none, such as task_arithmetic."
        ),
        rows=matrix.shape[0],
        columns=matrix.shape[1],
    )


def singular_values(matrix: Array) -> np.ndarray:
    """The singular values of ``matrix``, falling, as numpy."""
    if isinstance(matrix, np.ndarray):
        return np.linalg.svd(matrix, compute_uv=False)
    import torch

    return host(torch.linalg.svdvals(matrix.double()))


def qr(matrix: Array) -> tuple[Array, Array]:
    """Q (m, k) with orthonormal columns and R (k, n), k = min(m, n); Q · R = ``matrix``."""
    if isinstance(matrix, np.ndarray):
        return tuple(np.linalg.qr(matrix))  # type: ignore[return-value]
    import torch

    Q, R = torch.linalg.qr(matrix)
    return Q, R


def eigh(matrix: Array) -> tuple[np.ndarray, Array]:
    """Eigenvalues (falling, numpy) and eigenvectors (columns) of a symmetric matrix."""
    if isinstance(matrix, np.ndarray):
        values, vectors = np.linalg.eigh(matrix)
        return values[::-1], vectors[:, ::-1]
    import torch

    values, vectors = torch.linalg.eigh(matrix)
    return host(values)[::-1], vectors.flip(1)


def noise(shape: Sequence[int], dtype: Any) -> float:
    """The share of a matrix's largest singular value below which its numbers are rounding.

    Rounding m · n numbers of ``dtype`` adds a matrix with singular values up to about
    eps · (√m + √n) times the size of a number. Its directions say nothing of the task, and LAPACK
    chooses them as it likes: no method may use them.
    """
    return float(np.finfo(dtype).eps * max(10.0, float(np.sqrt(shape).sum())))


def rank_of(s: Array, shape: Sequence[int], dtype: Any) -> int:
    """How many of the singular values ``s`` (falling) stand above `noise`."""
    values = host(s)
    if not values.size or not values[0] > 0:
        return 0
    return int(np.count_nonzero(values > noise(shape, dtype) * values[0]))


def polar(matrix: Array, dtype: Any) -> Array:
    """The matrix with orthonormal columns (or rows) nearest to ``matrix``: U · Vᵀ of its SVD.

    This is orthogonal Procrustes. Of a ``matrix`` without full rank it is the partial isometry on
    its range, which is unique; filling up the rest would need arbitrary directions. The columns
    are singular vectors themselves, known to about √eps of ``dtype`` where their singular value
    was small: what is nearer than that counts as one direction.
    """
    U, s, Vt = svd(matrix)
    values = host(s)
    rank = int(np.count_nonzero(values > np.sqrt(np.finfo(dtype).eps) * values.max(initial=0)))
    return U[:, :rank] @ Vt[:rank]
