"""The rounds of one size: every operation once for each program, then again."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import peer
from .processes import Run, run
from .recipes import Operation
from .sizes import Size

ROOT = Path(__file__).resolve().parents[1]
COPIES = 3  # `cp` is over so soon that it swings: more of it in every round

REFUSAL = "error:"  # how our command begins a sentence about what it cannot do

CP, FLOOR, OURS, PEER = "cp", "floor", "ours", "mergekit"


@dataclass
class Results:
    """Runs by operation and program (``cp`` belongs to no operation), and what could not run."""

    size: Size
    operations: Sequence[Operation]
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)


class Bench:
    """The programs over the checkpoints of one size in ``folder``."""

    def __init__(
        self, size: Size, folder: Path, operations: Sequence[Operation], peer_folder: Path | None
    ) -> None:
        self.results = Results(size, operations)
        self._folder = folder
        self._peer_folder = peer_folder
        self._out = folder / "out"
        self._lora_cache = folder / "lora-cache"
        self._recipes = {op.name: op.write(folder / "recipes") for op in operations}

    def measure(self, rounds: int) -> Results:
        """Warm up, then run all rounds."""
        print(f"{self.results.size.name} B parameters: warming up", file=sys.stderr)
        everything = sorted(self._folder.glob("*/*.safetensors"))
        self._run(self._floor(everything))  # the page cache holds every input from here on
        self._run(self._copy())
        for operation in self.results.operations:
            self._attempt(operation, OURS)
        for number in range(1, rounds + 1):
            self._round(f"round {number}/{rounds}")
        return self.results

    def _round(self, label: str) -> None:
        available = [op for op in self.results.operations if self._is_available(op, OURS)]
        # Spread over the round, as the machine's other work is.
        moments = {len(available) * part // COPIES for part in range(COPIES)}
        for _ in range(COPIES - len(moments)):
            self._keep("", CP, self._run(self._copy()), label)
        for index, operation in enumerate(available):
            if index in moments:
                self._keep("", CP, self._run(self._copy()), label)
            inputs = [p for name in operation.reads for p in self._weights(name)]
            self._keep(operation.name, FLOOR, self._run(self._floor(inputs)), label)
            for program in (OURS, PEER):
                if self._is_available(operation, program):
                    done = self._attempt(operation, program)
                    if done is not None:
                        self._keep(operation.name, program, done, label)

    def _is_available(self, operation: Operation, program: str) -> bool:
        if program == PEER and (
            self._peer_folder is None or self.results.size.name not in operation.peer
        ):
            return False
        return (operation.name, program) not in self.results.missing

    def _attempt(self, operation: Operation, program: str) -> Run | None:
        """Merge with ``program``; None, and the reason kept, where it cannot."""
        recipe = self._recipes[operation.name]
        command: list[str | Path]
        if program == PEER:
            assert self._peer_folder is not None
            command = peer.command(self._peer_folder, recipe, self._out, self._lora_cache)
            environment = peer.ENVIRONMENT
        else:
            command = [sys.executable, "-m", "merging", recipe, self._out, "--quiet"]
            environment = {"PYTHONPATH": str(ROOT)}
        done = self._run(command, environment)
        if done.code == 0:
            return done
        reason = _reason(done)
        self.results.missing[operation.name, program] = reason
        print(f"{operation.title}, {program}: {reason}", file=sys.stderr)
        return None

    def _keep(self, operation: str, program: str, done: Run, label: str) -> None:
        if done.code != 0:
            sys.exit(f"{program} failed: {_reason(done)}")
        self.results.runs.setdefault((operation, program), []).append(done)
        print(
            f"{label}  {operation:16} {program:9} {done.wall:7.2f} s  {done.cpu:7.2f} CPU s  "
            f"{done.peak / 1e6:6.0f} MB",
            file=sys.stderr,
        )

    def _run(self, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Run:
        """Run ``command``, see that a whole model was written, and clear up, untimed."""
        self._clear()
        try:
            done = run(command, cwd=self._folder, environment=environment)
            if done.code == 0:
                written = sum(p.stat().st_size for p in self._out.iterdir())
                if written < 2 * self.results.size.parameters:
                    sys.exit(f"`{command[0]}` wrote only {written} bytes: {done.output[-2000:]}")
        finally:
            # At once: what is deleted is not written back to the disk beside the next run.
            self._clear()
        return done

    def _clear(self) -> None:
        for folder in (self._out, self._lora_cache):
            shutil.rmtree(folder, ignore_errors=True)

    def _copy(self) -> list[str | Path]:
        return ["cp", "-r", self._folder / "base", self._out]

    def _floor(self, inputs: list[Path]) -> list[str | Path]:
        program = Path(__file__).with_name("floor.py")
        size = 2 * self.results.size.parameters
        return [sys.executable, "-I", "-S", program, self._out, str(size), *inputs]

    def _weights(self, name: str) -> list[Path]:
        return sorted((self._folder / name).glob("*.safetensors"))


def _reason(done: Run) -> str:
    """Why a command did not merge, on one line: it refused, in a sentence, or it broke."""
    lines = done.output.strip().splitlines() or ["no output"]
    starts = [index for index, line in enumerate(lines) if line.startswith(REFUSAL)]
    if starts:
        said = " ".join(lines[starts[-1] :]).removeprefix(REFUSAL).strip()
        return f"not available: {textwrap.shorten(said, 160, placeholder=' …')}"
    return (
        f"failed with exit code {done.code}: {textwrap.shorten(lines[-1], 160, placeholder=' …')}"
    )
