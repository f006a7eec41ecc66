"""From a recipe and opened checkpoints to bytes: one door for streams, builds and the command."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vectors.tensorfile.checkpoint import Checkpoint

from .align import UNTOUCHED, PlannedTensor, Report, TermSource, align
from .block import Workspace
from .compute import Combination, Results, collapsed
from .direct import MEMORY
from .errors import MergeError, _
from .kernels import KERNEL
from .layout import VirtualFile, VirtualModel, copy_plan, lay_out
from .methods import get_method
from .recipe import Recipe, collapse

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

PIECE_BYTES = 2**21
AHEAD = 1  # further pieces of a download that are computed before somebody asks for them
TASK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Equipment:
    """An equipped model, not yet computed: its virtual files and the alignment report.

    ``source`` is the reference of the checkpoint whose tensors and files shape the result: the
    target, or the one checkpoint that the recipe's sum is. ``plan`` is the merge on ``target``
    tensor by tensor, kept even where the whole sum is one checkpoint: a difference or a LoRA is
    made from it. ``terms`` are the sources of the recipe's terms, in order.
    """

    recipe: Recipe
    model: VirtualModel
    report: Report
    source: str
    target: Checkpoint
    terms: Sequence[TermSource]
    plan: Sequence[PlannedTensor]
    combination: Combination


def equip(
    recipe: Recipe,
    *,
    target: Checkpoint,
    foundation: Checkpoint,
    terms: Sequence[TermSource],
    extras: Mapping[str, TermSource] | None = None,
    target_tokens: Callable[[], Vocabulary] | None = None,
    foundation_tokens: Callable[[], Vocabulary] | None = None,
    device: str = "cpu",
    results: Results | None = None,
) -> Equipment:
    """Align and lay out ``recipe``. Reads headers only. Raises MergeError, RecipeError.

    ``terms`` are the sources of ``recipe.terms``, in the same order; ``extras`` those of
    ``recipe.extra_sources``. ``results`` keeps what whole-tensor methods compute.
    """
    by_ref = {term.ref: term for term in terms}
    whole = {term.ref for term in terms if term.form == "full"}
    single = collapse(recipe, whole)
    method = get_method(recipe.method)
    ordered = [by_ref[term.ref] for term in recipe.terms]
    combination = Combination(
        method, recipe, [term.label for term in ordered], device=device, results=results
    )
    planned, report = align(
        target,
        foundation,
        ordered,
        operates_on=method.operates_on,
        out_dtype=recipe.out_dtype,
        rules=recipe.rules,
        extras=extras,
        foundation_ref=recipe.foundation,
        target_tokens=target_tokens,
        foundation_tokens=foundation_tokens,
    )
    planned = [collapsed(method, recipe, tensor, whole) for tensor in planned]
    report.settle({tensor.name for tensor in planned if tensor.case == UNTOUCHED})
    if single is None:
        model, source = lay_out(planned, target, combination), recipe.target
    else:
        checkpoint = _checkpoint_of(single, recipe, target, foundation, by_ref)
        report.collapsed_to = source = single
        model = lay_out(copy_plan(checkpoint), checkpoint, combination)
    return Equipment(recipe, model, report, source, target, ordered, planned, combination)


def _checkpoint_of(
    ref: str,
    recipe: Recipe,
    target: Checkpoint,
    foundation: Checkpoint,
    by_ref: Mapping[str, TermSource],
) -> Checkpoint:
    if ref == recipe.target:
        return target
    if ref == recipe.foundation:
        return foundation
    content = by_ref[ref].content
    assert isinstance(content, Checkpoint)
    return content


def identity(recipe: Recipe, path: str) -> str:
    """What identifies the bytes of an output file: the recipe, the file, the kernel's version."""
    return hashlib.sha256(f"{recipe.hash}\n{path}\n{KERNEL}".encode()).hexdigest()


def stream(file: VirtualFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield bytes ``[start, stop)`` of ``file`` in pieces of ``PIECE_BYTES``."""
    stop = file.size if stop is None else stop
    held, filled = memoryview(bytearray(PIECE_BYTES)), 0
    for piece in file.read(start, stop):
        while piece:
            taken = min(len(piece), PIECE_BYTES - filled)
            held[filled : filled + taken] = piece[:taken]
            filled, piece = filled + taken, piece[taken:]
            if filled == PIECE_BYTES:
                yield bytes(held)
                filled = 0
    if filled:
        yield bytes(held[:filled])


def stream_ahead(file: VirtualFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """``stream``, computed by several threads a few pieces ahead of who takes them.

    Files whose tensors are best computed by one thread, and short ranges, are streamed as they are.
    Whoever stops early leaves nothing running: what the file reads may be closed at once.
    """
    stop = file.size if stop is None else stop
    if file.combination.by_tensor or stop - start <= AHEAD * PIECE_BYTES:
        yield from stream(file, start, stop)
        return
    upcoming: deque[Future[bytes]] = deque()
    try:
        for at in range(start, stop, PIECE_BYTES):
            upcoming.append(_threads().submit(_piece, file, at, min(at + PIECE_BYTES, stop)))
            if len(upcoming) > AHEAD:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()
    finally:
        wait([each for each in upcoming if not each.cancel()])


def _piece(file: VirtualFile, start: int, stop: int) -> bytes:
    """Bytes ``[start, stop)``, by the loops that write to a file: here, to where they will lie."""
    piece = _unwritten(None, stop - start)
    _write_range(file, MEMORY, start, stop, shift=start - _address(piece))
    return piece


# The C interface's way to make bytes: allocated first, written before anybody has seen them.
_unwritten = ctypes.pythonapi.PyBytes_FromStringAndSize
_unwritten.restype, _unwritten.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
_address = ctypes.pythonapi.PyBytes_AsString
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object,)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="merge")


def write_model(
    equipment: Equipment,
    folder: Path,
    extra_files: Mapping[str, bytes | Path],
    *,
    on_bytes: Callable[[int], object] | None = None,
    threads: int = 2,
    before_rename: Callable[[], object] | None = None,
) -> None:
    """Write the whole repository to ``folder``, which appears only when it is complete.

    ``extra_files`` are the configuration, tokenizer and card; ``before_rename`` may still raise,
    and then nothing is left. Raises MergeError when the folder is in use or the disk is too small,
    before anything is computed.
    """
    folder = Path(os.path.abspath(folder))  # `.` has no name to put a neighbour beside
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MergeError(
            _("%(folder)s already exists and is not empty. Choose another folder, or empty it."),
            folder=str(folder),
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as error:
        raise _not_written(folder, error) from error
    if equipment.model.size > free:
        raise MergeError(
            _("The model takes %(size).1f GB and only %(free).1f GB are free in %(folder)s."),
            size=equipment.model.size / 1e9,
            free=free / 1e9,
            folder=str(folder.parent),
        )
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        _write_files(equipment.model, partial, on_bytes, threads)
        if equipment.model.index is not None:
            (partial / "model.safetensors.index.json").write_bytes(equipment.model.index)
        for path, content in extra_files.items():
            goal = partial / path
            goal.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                goal.write_bytes(content)
            else:
                shutil.copyfile(content, goal)
        if before_rename:
            before_rename()
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _not_written(folder: Path, error: OSError) -> MergeError:
    return MergeError(
        _("%(folder)s cannot be written: %(reason)s. Nothing was left behind."),
        folder=str(folder),
        reason=error.strerror or str(error),
    )


_local = threading.local()


def _write_files(
    model: VirtualModel, folder: Path, on_bytes: Callable[[int], object] | None, threads: int
) -> None:
    """Compute every file, in tasks that several threads share."""
    with ExitStack() as stack:
        tasks: list[list[tuple[VirtualFile, int, int, int]]] = []
        for path, file in model.files.items():
            handle = stack.enter_context((folder / path).open("wb", buffering=0))
            os.truncate(handle.fileno(), file.size)
            tasks.append([(file, handle.fileno(), lo, hi) for lo, hi in _cuts(file)])
        # Writers of one file wait for each other: neighbours in the queue are of different files.
        queue = [task for turn in zip_longest(*tasks) for task in turn if task is not None]
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(_write_range, *task) for task in queue]
            try:
                for future in as_completed(futures):
                    count = future.result()
                    if on_bytes:
                        on_bytes(count)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _cuts(file: VirtualFile) -> Iterator[tuple[int, int]]:
    """Ranges of ``file`` for single tasks: of equal length, or a tensor each.

    A method that takes statistics of a tensor, or all of it, is best served by one thread.
    """
    if file.combination.by_tensor:
        borders = [0, *file.starts, file.size]
        yield from ((lo, hi) for lo, hi in pairwise(borders) if lo < hi)
    else:
        for lo in range(0, file.size, TASK_BYTES):
            yield lo, min(lo + TASK_BYTES, file.size)


def _write_range(file: VirtualFile, descriptor: int, start: int, stop: int, shift: int = 0) -> int:
    """Write the bytes ``[start, stop)`` of ``file``, each ``shift`` before where it is there.

    To MEMORY instead of a descriptor: the places are addresses."""
    work = _local.__dict__.setdefault("work", Workspace())
    header = memoryview(file.header)[start:stop]
    _write_at(descriptor, start - shift, [header])
    for tensor, lo, hi, at in file.parts(start, stop):
        merge, at = file.combination, at - shift
        if not (
            isinstance(merge, Combination) and merge.write(tensor, lo, hi, (descriptor, at), work)
        ):
            _write_at(descriptor, at, file.read_tensor(tensor, lo, hi, work))
        work.forget_tensor()
    return stop - start


def _write_at(descriptor: int, at: int, pieces: Iterable[memoryview]) -> None:
    for piece in pieces:
        if descriptor == MEMORY:
            if piece:
                ctypes.memmove(at, np.frombuffer(piece, np.uint8).ctypes.data, len(piece))
        else:
            done = 0
            while done < len(piece):
                done += os.pwrite(descriptor, piece[done:], at + done)
        at += len(piece)
