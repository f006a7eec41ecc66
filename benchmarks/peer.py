"""mergekit, in a virtual environment of its own: its requirements are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch==2.13.0", "mergekit==0.1.5")  # in this order, so that pip keeps our torch

# No network, no card and no tokenizer: what is left is the merge, and the peer only gains by it.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
FLAGS = ("--quiet", "--no-write-model-card", "--no-copy-tokenizer")
_VERSIONS = """
import importlib.metadata, json, platform
names = ["torch", "mergekit", "transformers", "numpy"]
print(json.dumps({"python": platform.python_version()}
                 | {name: importlib.metadata.version(name) for name in names}))
"""


def install(folder: Path) -> dict[str, str]:
    """Make the virtual environment in ``folder`` unless it is there; returns its versions.

    Ends the program with one sentence when that fails.
    """
    versions = _versions(folder)
    if all(versions.get(name) == version for name, version in _wanted()):
        return versions
    print(f"installing {', '.join(PACKAGES)} into {folder}", file=sys.stderr)
    _step([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(_python(folder)), "-m", "pip", "install", "--quiet"]
    for package in PACKAGES:
        _step([*pip, package])
    return _versions(folder)


def command(folder: Path, recipe: Path, out: Path, lora_cache: Path) -> list[str | Path]:
    """The peer's command for ``recipe``."""
    program = folder / "bin" / "mergekit-yaml"
    return [program, recipe, out, *FLAGS, "--lora-merge-cache", lora_cache]


def _wanted() -> list[tuple[str, str]]:
    return [(name, version) for name, _, version in (p.partition("==") for p in PACKAGES)]


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _versions(folder: Path) -> dict[str, str]:
    """Versions of the packages that matter; {} where they are not all installed."""
    try:
        found = subprocess.run(
            [_python(folder), "-c", _VERSIONS], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    # A build tag such as +cpu is part of torch's version but was not asked for.
    return {name: text.partition("+")[0] for name, text in json.loads(found.stdout).items()}


def _step(words: list[str]) -> None:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        sys.exit(
            f"mergekit could not be installed (`{' '.join(words[-3:])}`: {last}). "
            "Measure without it: python -m benchmarks --no-peer"
        )
