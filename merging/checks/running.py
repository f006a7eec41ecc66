"""The jobs: ask every model every probe that nobody has asked it yet, then write down the table.

Each answer is kept as soon as it is there (``Measured``), so a job that starts again, after a
killed worker or a dead runner, goes on where it was. Only the holder of the lease publishes, in one
transaction with the end of the job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from vectors import leases
from vectors.errors import Refusal, _, row_of
from vectors.leases import JobState, Lease
from vectors.models import Version
from vectors.probes import ZERO_SHOT
from vectors.tensorfile.errors import Problem

from .folders import job_folder, written
from .models import AbilityCheck, CheckJob, CoefficientSweep, Measured, VersionCheck
from .plan import (
    Model,
    abilities_of,
    alone_of,
    foundation_model,
    models_of,
    probes_in,
    setting_of,
    target_of,
    with_and_without,
)
from .process import Runner, RunnerDied
from .sweep_table import best_of, curves_of
from .table import TERM, Ability, rows_of, shape_of
from .together import go_together
from .turns import ending, next_in_line, taken_by_others

log = logging.getLogger(__name__)

RUNNERS = 3  # that may die on one job before it is given up
_CRASHED = _(
    "The program that runs the models crashed. The model may be damaged, or need more memory than "
    "one check may take."
)

Found = dict[tuple[str, str], list[int]]
Publish = Callable[[], dict[str, Any]]


class Ending(Exception):
    """This worker has been told to end."""


class Cancelled(Exception):
    """Whoever asked for the job does not want it any more."""


def run_ability_check(job_id: int) -> None:
    """Do the check of a recipe, if nobody else is on it. Safe to call any number of times."""
    _run(AbilityCheck, job_id, _ability_result)


def run_sweep(job_id: int) -> None:
    """Do a coefficient sweep, likewise."""
    _run(CoefficientSweep, job_id, _sweep_result)


def run_version_check(job_id: int) -> None:
    """Measure a published version on its own probes, likewise."""
    _run(VersionCheck, job_id, _version_result)


def _run(model: type[CheckJob], job_id: int, work: Callable[[Any, Lease], Publish]) -> None:
    if taken_by_others(model):
        return  # the row waits; it is rung again when its turn comes
    lease = leases.claim(model, job_id)
    if lease is None:
        return
    with lease:
        try:
            _finish(model._default_manager.get(pk=job_id), lease, work)
        except leases.LeaseLost:
            return
    next_in_line()


def _finish(job: Any, lease: Lease, work: Callable[[Any, Lease], Publish]) -> None:
    try:
        publish = work(job, lease)
        with transaction.atomic():
            lease.finish(result=publish(), error="")
    except leases.LeaseLost:
        raise
    except Ending:
        lease.give_back()
    except Cancelled:
        lease.finish(JobState.FAILED, error=_("It was stopped."))
    except Problem as problem:
        _refuse(job, lease, problem)
    except RunnerDied as death:
        log.error("the runner of %s died again: %s", job, death)
        if death.killed:
            text = _("The program that runs the models was killed, most likely for want of memory.")
            lease.finish(JobState.FAILED, error=text)
        else:
            _refuse(job, lease, Refusal(_CRASHED))
    except Exception as error:
        lease.finish(JobState.FAILED, error=_("The check broke. Try again."))
        log.error("%s broke", job, exc_info=error)


def _refuse(job: CheckJob, lease: Lease, problem: Problem) -> None:
    """End the job for a reason that lies in what was asked: it would fail again."""
    kept = {"refusal": row_of(problem)} if isinstance(job, VersionCheck) else {}
    lease.finish(JobState.FAILED, error=str(problem), **kept)


# --- what each job measures ------------------------------------------------------------------


def _ability_result(job: AbilityCheck, lease: Lease) -> Publish:
    row = job.equipped
    abilities = abilities_of(row, job.also.select_related("vector"))
    models = models_of(row, abilities)
    scores, problems = _measure(models, abilities, job, lease)
    terms = list(row.terms.select_related("version__vector"))
    rows = rows_of(abilities, [model.key for model in models], scores)
    vectors = [(str(term.version), term.coefficient) for term in terms]
    result = {
        "measured": timezone.now().isoformat(timespec="seconds"),
        "shape": shape_of([term.coefficient for term in terms]),
        "models": [{"key": model.key, "label": model.label} for model in models],
        "abilities": rows,
        "together": go_together(rows, vectors, problems),
        "problems": problems,
    }
    return lambda: result


def _sweep_result(job: CoefficientSweep, lease: Lease) -> Publish:
    row = job.equipped
    abilities = abilities_of(row)
    settings = [[Decimal(text) for text in setting] for setting in job.settings]
    swept = [setting_of(row, n, setting) for n, setting in enumerate(settings)]
    scores, problems = _measure(
        [target_of(row), *alone_of(row, abilities), *swept], abilities, job, lease
    )
    keys = [model.key for model in swept]
    result = {
        "measured": timezone.now().isoformat(timespec="seconds"),
        "settings": job.settings,
        "curves": curves_of(abilities, keys, scores),
        "best": best_of(abilities, settings, keys, scores),
        "problems": problems,
    }
    return lambda: result


def _version_result(job: VersionCheck, lease: Lease) -> Publish:
    version = job.version
    probes = probes_in(version)
    abilities = [Ability(probe, TERM, str(version), Decimal(1)) for probe in probes]
    models = with_and_without(version)
    scores, problems = _measure(models, abilities, job, lease)
    rows = rows_of(abilities, [model.key for model in models], scores)
    measured = timezone.now().isoformat(timespec="seconds")

    def publish() -> dict[str, Any]:
        locked = Version.objects.select_for_update().get(pk=version.pk)
        locked.abilities = with_measurements(locked.abilities, rows, measured)
        locked.save(update_fields=["abilities"])
        return {"measured": measured, "abilities": rows, "problems": problems}

    return publish


def with_measurements(
    claims: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], when: str
) -> list[dict[str, Any]]:
    """The card's claims, each with what was ``measured`` here beside it.

    A claim is known by its name, or by standing alone beside a single probe.
    """
    found = [
        {key: value for key, value in claim.items() if key != "measured"}
        for claim in claims
        if claim.get("claimed", True)
    ]
    for row in rows:
        if "verdict" not in row:
            continue
        without, with_ = row["scores"]["target"], row["scores"]["equipped"]
        measured = {
            "metric": row["metric"],
            "without": without["share"],
            "with": with_["share"],
            "n": row["n"],
            "low": with_["low"],
            "high": with_["high"],
            "verdict": row["verdict"],
            "when": when,
        }
        named = [claim for claim in found if claim.get("name") == row["name"]]
        if not named and len(found) == len(rows) == 1:
            named = found
        if not named:
            named = [{"name": row["name"], "metric": row["metric"], "claimed": False,
                      "without": None, "with": None, "n": None}]  # fmt: skip
            found.extend(named)
        named[0]["measured"] = measured
    return found


# --- measuring -------------------------------------------------------------------------------


def _measure(
    models: Sequence[Model], abilities: Sequence[Ability], job: CheckJob, lease: Lease
) -> tuple[Found, list[dict[str, Any]]]:
    """Scores by (ability, model), and what could not be measured with the reason."""
    asked = [
        (model, [each for each in abilities if model.asks is None or each.key in model.asks])
        for model in models
    ]
    work = _Work(asked, job, lease)
    deaths = 0
    while True:
        try:
            return work.go()
        except RunnerDied as death:
            deaths += 1
            if deaths >= RUNNERS:
                raise
            log.warning("the runner of %s died (%s); another goes on", job, death)


class _Work:
    """What is left to ask, and how far it is."""

    def __init__(
        self, asked: Sequence[tuple[Model, list[Ability]]], job: CheckJob, lease: Lease
    ) -> None:
        self.asked, self.job, self.lease = asked, job, lease
        self.total = sum(len(a.probe.items) for _model, abilities in asked for a in abilities)
        self.problems: dict[tuple[str, str], dict[str, Any]] = {}

    def go(self) -> tuple[Found, list[dict[str, Any]]]:
        scores = self._known()
        self.done = sum(len(found) for found in scores.values())
        todo = [
            (model, [a for a in abilities if (a.key, model.key) not in scores])
            for model, abilities in self.asked
        ]
        todo = [(model, abilities) for model, abilities in todo if abilities]
        if todo:
            self._tick()
            with job_folder(self.lease.token) as folder, ExitStack() as stack:
                runner = Runner(folder, self._tick)
                stack.callback(runner.close)
                self._ask_all(todo, folder, runner, scores)
        return scores, list(self.problems.values())

    def _known(self) -> Found:
        """What has been measured before, by whomever."""
        models: dict[str, list[str]] = {model.identity: [] for model, _a in self.asked}
        for model, _abilities in self.asked:
            models[model.identity].append(model.key)
        probes = {ability.key for _model, abilities in self.asked for ability in abilities}
        kept = Measured.objects.filter(model__in=models, probe__in=probes)
        wanted = {(a.key, model.key) for model, abilities in self.asked for a in abilities}
        return {
            (row.probe, key): row.scores
            for row in kept
            for key in models[row.model]
            if (row.probe, key) in wanted
        }

    def _ask_all(
        self,
        todo: Sequence[tuple[Model, list[Ability]]],
        folder: Path,
        runner: Runner,
        scores: Found,
    ) -> None:
        files = {}
        for _model, abilities in todo:
            for ability in abilities:
                files[ability.key] = folder / f"{ability.key}.jsonl"
                files[ability.key].write_text(ability.probe.to_jsonl(), "utf-8")
        base = foundation_model(todo[0][0].foundation)
        described = {
            a.key for _m, abilities in todo for a in abilities if a.probe.kind == ZERO_SHOT
        }
        if described:
            self.lease.progress("writing", self.done, self.total)
            with written(base, folder, self._tick) as path:
                try:
                    runner.describe(path, [files[key] for key in sorted(described)])
                except Problem as problem:
                    self._note(base, None, problem)
        for model, abilities in todo:
            self.lease.progress("writing", self.done, self.total)
            with written(model, folder, self._tick) as path:
                for ability in abilities:
                    found = self._ask(runner, model, ability, path, files, folder / base.identity)
                    if found is not None:
                        scores[ability.key, model.key] = found

    def _ask(
        self,
        runner: Runner,
        model: Model,
        ability: Ability,
        path: Path,
        files: dict[str, Path],
        foundation: Path,
    ) -> list[int] | None:
        begun = self.done

        def on_asked(count: int) -> None:
            self.done += count
            self.lease.progress("asking", self.done, self.total)

        try:
            found = runner.scores(path, files[ability.key], foundation, on_asked)
        except Refusal:
            raise
        except Problem as problem:
            self._note(model, ability, problem)
            return None
        self.done = begun + len(found)
        Measured.objects.get_or_create(
            model=model.identity, probe=ability.key, defaults={"scores": found}
        )
        return found

    def _note(self, model: Model, ability: Ability | None, problem: Problem) -> None:
        name = ability.probe.name if ability is not None else ""
        self.problems[model.key, name] = {
            "model": model.key,
            "ability": name,
            **row_of(problem),
        }

    def _tick(self) -> None:
        self.lease.check()
        if ending.is_set():
            raise Ending
        if type(self.job)._default_manager.filter(pk=self.job.pk, cancelled=True).exists():
            raise Cancelled
