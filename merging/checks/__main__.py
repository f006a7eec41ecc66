"""The runner: ``python -m merging.checks MODEL PROBES…`` asks a model folder and prints JSON.

With ``--requests`` it reads one request a line from standard input and answers each by lines of
JSON, until its input ends; so the site runs it, to load the libraries once for all models of a job.

    {"describe": FOLDER, "probes": [FILE, …]}     → {"described": true}
    {"ask": FOLDER, "probe": FILE, "foundation": FOLDER}
        → {"asked": 32} … {"scores": [1, 0, …]}   or {"problem": {"template": …, "params": …}}
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from merging.checks.limits import confine, end_with_input, give_way
from vectors.intervals import wilson
from vectors.probes import Probe, read_probes
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.source import FileSource

if TYPE_CHECKING:
    from merging.checks.asking import Asker


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m merging.checks",
        description="Ask a model the held-out items of probe files (docs/probes.md).",
    )
    add = parser.add_argument
    add("model", nargs="?", type=Path, help="a model folder, as transformers reads it")
    add("probes", nargs="*", type=Path, help="probe files")
    add("--foundation", type=Path, help="the folder that embeds the labels of zero-shot probes")
    add("--limit", type=int, metavar="N", help="ask the first N items of each probe only")
    add("--requests", action="store_true", help="read requests from standard input")
    add("--memory-gb", type=int, default=16, metavar="GB", help="memory it may take (%(default)s)")
    add("--cpu-seconds", type=int, default=24 * 3600, metavar="S", help="processor time, likewise")
    add("--threads", type=int, default=1, metavar="N", help="threads to compute with (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 and one sentence on standard error when something is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.requests and not (options.model and options.probes):
        parser.error("name a model folder and at least one probe file")
    confine(memory_gb=options.memory_gb, cpu_seconds=options.cpu_seconds, threads=options.threads)
    answers = _own_output()
    if options.requests:
        give_way()
        _serve(answers, options.threads)
        return 0
    try:
        # Read before the libraries load: a bad line is found at once.
        probes = [probe for path in options.probes for probe in _read(path)]
        asker = _asker(options.threads)
        rows = [
            _row(asker, _first(probe, options.limit), options.model, options.foundation)
            for probe in probes
        ]
    except Problem as problem:
        print(f"merging.checks: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=2, ensure_ascii=False), file=answers)
    return 0


def _own_output() -> TextIO:
    """Standard output for us alone: what libraries print goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _asker(threads: int) -> Asker:
    import torch
    from transformers.utils import logging

    from merging.checks.asking import Asker

    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Asker()


def _read(path: Path) -> list[Probe]:
    source = FileSource(path)
    try:
        return read_probes(source)
    finally:
        source.close()


def _first(probe: Probe, limit: int | None) -> Probe:
    return replace(probe, items=probe.items[:limit])


def _scores(
    asker: Asker, probe: Probe, model: Path, foundation: Path | None, done: Any
) -> list[int]:
    from merging.checks.asking import score

    answers = asker.ask(probe, model, foundation, done)
    return [score(probe, item, answer) for item, answer in zip(probe.items, answers, strict=True)]


def _row(asker: Asker, probe: Probe, model: Path, foundation: Path | None) -> dict[str, Any]:
    correct = sum(_scores(asker, probe, model, foundation, lambda _count: None))
    of = sum(probe.weights)
    low, high = wilson(correct / of, of)
    return {
        "probe": probe.name,
        "kind": probe.kind,
        "metric": probe.metric,
        "correct": correct,
        "of": of,
        "share": round(correct / of, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "chance": probe.chance,
    }


def _serve(answers: TextIO, threads: int) -> None:
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    end_with_input(requests.put)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    asker = _asker(threads)
    while True:
        request = json.loads(requests.get())
        try:
            say(_answer(asker, request, say))
        except Problem as problem:
            say({"problem": {"template": problem.template, "params": problem.params}})


def _answer(asker: Asker, request: dict[str, Any], say: Any) -> dict[str, Any]:
    if "describe" in request:
        for path in request["probes"]:
            asker.describe(_read(Path(path))[0], Path(request["describe"]))
        return {"described": True}
    (probe,) = _read(Path(request["probe"]))
    foundation = request.get("foundation")
    return {
        "scores": _scores(
            asker,
            probe,
            Path(request["ask"]),
            Path(foundation) if foundation else None,
            lambda count: say({"asked": count}),
        )
    }


if __name__ == "__main__":
    raise SystemExit(main())
