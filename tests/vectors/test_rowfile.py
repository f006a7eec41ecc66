"""The file of coarse rows: shared by processes, added to by each, never wrong."""

from __future__ import annotations

import hashlib
import multiprocessing
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vectors.rowfile import RowFile

WIDTH = 97


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row_of(sha: str) -> bytes:
    generator = np.random.default_rng(int(sha[:8], 16))
    numbers = generator.integers(-127, 128, WIDTH, dtype=np.int8)
    return struct.pack("<f", int(sha[8:10], 16)) + numbers.tobytes()


def load(shas: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield from ((sha, row_of(sha)) for sha in shas)


def check(file: RowFile, numbers: Sequence[int]) -> None:
    found = file.rows([name(number) for number in numbers], load)
    for number, at in zip(numbers, found.which, strict=True):
        expected = row_of(name(number))
        assert struct.pack("<f", found.scales[at]) + found.rows[at].tobytes() == expected


def add_in_turn(path: Path, first: int) -> None:
    """What a process does: asks for a few more rows each time, of which others ask for some."""
    file = RowFile(path, WIDTH)
    for number in range(first, first + 60, 3):
        check(file, range(first, number + 7))


def test_processes_that_add_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=add_in_turn, args=(tmp_path / "f", first)) for first in (0, 20, 40)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    check(RowFile(tmp_path / "f", WIDTH), range(104))
    keys = (tmp_path / "f" / "keys").read_bytes()
    shas = [keys[at : at + 32] for at in range(0, len(keys), 36)]
    assert len(shas) == len(set(shas)) == 104
    assert (tmp_path / "f" / "rows").stat().st_size == 104 * WIDTH


def test_another_file_in_its_place_is_read_anew(tmp_path: Path) -> None:
    file, other = RowFile(tmp_path / "f", WIDTH), RowFile(tmp_path / "g", WIDTH)
    check(file, range(5))
    check(other, range(9, 0, -1))
    for part in ("rows", "keys"):
        (tmp_path / "g" / part).replace(tmp_path / "f" / part)
    check(file, range(5))
    check(file, range(12))


def test_a_sketch_that_is_gone_is_nowhere(tmp_path: Path) -> None:
    found = RowFile(tmp_path, WIDTH).rows([name(1), name(2)], lambda shas: load(shas[:1]))
    assert found.which.tolist() == [0, -1]
    assert RowFile(tmp_path / "none", WIDTH).rows([], load).which.size == 0
