"""Model folders of a job: written by the engine, read by the runner, gone when the job is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from django.conf import settings

from merging.engine.run import write_model
from merging.opening import opened_recipe
from merging.repository import configuration_of
from vectors.leases import JobState
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

from .models import AbilityCheck, CheckJob, CoefficientSweep, VersionCheck
from .plan import Model

JOBS: tuple[type[CheckJob], ...] = (AbilityCheck, CoefficientSweep, VersionCheck)
_TOKEN = re.compile(r"[0-9a-f]{32}")  # of a lease


@contextmanager
def job_folder(token: str) -> Iterator[Path]:
    """A folder for the job held by the lease ``token``; those of dead workers are removed first."""
    root = Path(settings.ARMORY_DATA) / "checks"
    root.mkdir(parents=True, exist_ok=True)
    _remove_orphans(root)
    folder = root / token
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(root: Path) -> None:
    found = {path.name for path in root.iterdir() if _TOKEN.fullmatch(path.name)}
    held: set[str] = set()
    for job in JOBS:
        running = job._default_manager.filter(state=JobState.RUNNING, owner_token__in=found)
        held.update(running.values_list("owner_token", flat=True))
    for name in found - held:
        shutil.rmtree(root / name, ignore_errors=True)


@contextmanager
def written(model: Model, folder: Path, tick: Callable[[], object]) -> Iterator[Path]:
    """``model`` as a folder that transformers reads, for the length of the block."""
    goal = folder / model.identity
    with opened_recipe(model.recipe, model.foundation, model.target, model.versions) as equipment:
        beside = {
            path: _content(blob.sha256)
            for path, blob in configuration_of(
                model.recipe, model.foundation, model.target, model.versions, equipment.source
            ).items()
        }
        write_model(equipment, goal, beside, threads=1, on_bytes=lambda _count: tick())
    try:
        yield goal
    finally:
        shutil.rmtree(goal, ignore_errors=True)


def _content(sha256: str) -> bytes:
    with closing(storage().open(sha256)) as source:
        return read_bytes(source)
