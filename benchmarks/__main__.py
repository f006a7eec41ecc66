"""``make bench``: mergekit, ``cp`` and a read-everything-write-once floor beside ours, in one run.

The programs take turns, operation by operation, so that whatever else the machine does falls on
all of them alike. Nothing is timed but whole processes, start-up included, with the page cache
warm.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from . import machine, peer, table
from .recipes import OPERATIONS, Operation
from .rounds import ROOT, Bench, Results
from .sizes import SIZES

CACHE = ROOT / ".cache" / "bench"
RESULTS = Path(__file__).with_name("RESULTS.md")

METHOD = """\
Whole processes, start-up included, take turns on the same files; the page cache is warm and ours
has run once before. A figure is the median of its runs. CPU is user and system time; peak memory
is the largest resident set. mergekit's includes the pages of its memory-mapped inputs. Both
programs get the same YAML file with `dtype: bfloat16`, in which mergekit also computes; ours
computes in float32. mergekit runs without network, model card and tokenizer. The floor reads the
same inputs once and writes the result once with two threads.

The checkpoints are synthetic Llamas: a base and a low-rank, a dense and a sparse fine-tune, bf16
in three shards, differences of about 1 % of the base's norm."""


def main() -> None:
    """Make what is missing, measure, print, and keep the result if asked to."""
    options = _parser().parse_args()
    if options.sketches:
        # Of its own, too: it loads all that the merges' measuring process must not.
        sys.exit(subprocess.run([sys.executable, "-m", "benchmarks.sketches"], cwd=ROOT).returncode)
    load = os.getloadavg()[0]
    venv = None if options.no_peer else CACHE / "mergekit-venv"
    peer_versions = peer.install(venv) if venv else {}
    for name in options.size:
        # A process of its own, because this one has to stay small: see processes.run.
        made = subprocess.run(
            [sys.executable, "-m", "benchmarks.checkpoints", name, CACHE / name], cwd=ROOT
        )
        if made.returncode != 0:
            sys.exit(made.returncode)
    all_results = [
        Bench(SIZES[name], CACHE / name, _chosen(options, name), venv).measure(options.runs)
        for name in options.size
    ]
    report = _report(all_results, options.runs, load, peer_versions)
    if not options.only:
        report += "\n\n" + _served(options.runs)
    print(report)
    if options.write_results:
        RESULTS.write_text(report + "\n", "utf-8")


def _served(runs: int) -> str:
    """The table of downloads, from a process of its own; or why there is none."""
    command = [sys.executable, "-m", "benchmarks.serving", "--runs", str(runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"Downloads: {done.stderr.strip()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--size",
        type=lambda text: _names(text, SIZES),
        default=list(SIZES),
        help=f"billions of parameters, by commas (default {','.join(SIZES)})",
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument(
        "--only",
        type=lambda text: _names(text, OPERATIONS),
        default=None,
        help=f"these operations, by commas: {', '.join(OPERATIONS)}",
    )
    parser.add_argument(
        "--all", action="store_true", help="every operation at every size; takes an hour"
    )
    parser.add_argument("--no-peer", action="store_true", help="without mergekit")
    parser.add_argument(
        "--write-results", action="store_true", help=f"keep the tables in {RESULTS.name}"
    )
    parser.add_argument("--sketches", action="store_true", help="sketches and a large shop")
    return parser


def _names(text: str, known: Mapping[str, object]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
    return names


def _chosen(options: argparse.Namespace, size: str) -> list[Operation]:
    if options.only:
        return [OPERATIONS[name] for name in options.only]
    return [op for op in OPERATIONS.values() if options.all or size in op.quick]


def _report(
    all_results: list[Results], runs: int, load: float, peer_versions: dict[str, str]
) -> str:
    memory = f"{machine.memory() / 2**30:.0f} GiB of memory"
    lines = [
        "# Benchmark",
        "",
        f"- command: `{shlex.join(['python', '-m', 'benchmarks', *sys.argv[1:]])}`",
        f"- date: {datetime.now(UTC):%Y-%m-%d}; rounds: {runs}",
        f"- machine: {machine.processor()}, {memory}",
        f"- load: {load:.1f} before the run, {os.getloadavg()[0]:.1f} after it",
        f"- ours: {_listed(machine.versions())}",
        f"- mergekit: {_listed(peer_versions) if peer_versions else 'not measured'}",
        "",
        METHOD,
    ]
    for results in all_results:
        size = results.size
        lines += [
            "",
            f"## {size.name} B parameters ({2 * size.parameters / 1e9:.2f} GB a model)",
            "",
            table.ratios(results),
            "",
            *(f"- {note}" for note in table.notes(results)),
            *([""] if results.missing else []),
            table.measured(results),
        ]
    growth = table.memory_growth(all_results)
    return "\n".join([*lines, *(["", growth] if growth else [])])


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    main()
