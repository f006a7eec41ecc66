"""The jobs on the demo's small image classifier: tables, sweeps, measurements, and deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User

from demo.evaluate import accuracy
from merging.checks import process, running, turns
from merging.checks.models import AbilityCheck, CoefficientSweep, Measured, VersionCheck
from merging.checks.process import Runner
from merging.checks.services import cancel, measure_version, start_check, start_sweep
from merging.models import EquippedModel
from vectors.leases import JobState
from vectors.models import Foundation, Version

from .conftest import CONVNEXT, DEMO, FOLDERS, version

# Committed for real: a lease is renewed by a thread with a connection of its own.
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

Equip = Callable[..., EquippedModel]
DIGITS, CLOTHES, DARK = "handwritten-digits", "upside-down-clothes", "dark-on-light-digits"


@pytest.fixture(autouse=True)
def _only_what_is_asked_for(request: pytest.FixtureRequest) -> None:
    """The measurements that stocking the gallery has asked for stay out of the way."""
    request.getfixturevalue("gallery")
    VersionCheck.objects.all().delete()


def check(row: EquippedModel, user: User, **options: Any) -> AbilityCheck:
    job = start_check(row, user, **options)
    running.run_ability_check(job.pk)
    job.refresh_from_db()
    return job


def table(job: AbilityCheck) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in job.result["abilities"]}


def probes_of(name: str) -> Path:
    (found,) = DEMO.glob(f"vectors/*/{name}/probes.jsonl")
    return found


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """Every runner that is started."""
    started: list[Runner] = []

    class Watched(Runner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(running, "Runner", Watched)
    return started


def leftovers() -> list[Path]:
    return list((Path(settings.ARMORY_DATA) / "checks").iterdir())


def test_the_table_of_a_sum(equip: Equip, buyer: User, runners: list[Runner]) -> None:
    row = equip(f"0.7 * {DIGITS} + 0.7 * {CLOTHES}")
    job = check(row, buyer, also=[version(DARK)])
    assert (job.state, job.error, job.percent) == (JobState.DONE, "", 100)
    result, found = job.result, table(job)
    assert result["shape"] == "addition"
    assert result["problems"] == []
    assert [model["label"] for model in result["models"]] == [
        CONVNEXT, f"bo/{DIGITS} v1", f"chen/{CLOTHES} v1", row.repo_id,
    ]  # fmt: skip
    assert {name: row["role"] for name, row in found.items()} == {
        "Handwritten digits": "term",
        "Upside-down clothes": "term",
        "Printed digits": "control",
        "Upright clothes": "control",
        "Dark-on-light digits": "asked",
    }
    for name, path in (("Handwritten digits", DIGITS), ("Upside-down clothes", CLOTHES)):
        scores = found[name]["scores"]
        assert len(scores) == 4
        expected = accuracy(FOLDERS[CONVNEXT], probes_of(path))
        assert scores["target"]["share"] == pytest.approx(expected, abs=1e-4)
        assert found[name]["verdict"] == "learned"
        assert 0.5 < found[name]["kept_share"] <= 1.1
    digits_alone = f"alone-{version(DIGITS).digest[:16]}"
    expected = accuracy(DEMO / "vectors/bo" / DIGITS, probes_of(DIGITS))
    assert found["Handwritten digits"]["scores"][digits_alone]["share"] == pytest.approx(
        expected, abs=1e-4
    )
    assert leftovers() == []

    kept = Measured.objects.count()
    again = check(row, buyer)
    assert len(runners) == 1, "everything is known: nothing is run"
    assert again.result["abilities"] == result["abilities"]
    assert Measured.objects.count() == kept
    # Another recipe of the same vectors asks the new model only.
    other = check(equip(f"{DIGITS} + {CLOTHES}"), buyer)
    assert other.state == JobState.DONE
    assert Measured.objects.count() == kept + 4


def test_a_sweep_has_a_curve_for_each_ability(equip: Equip, buyer: User) -> None:
    row = equip(f"{DIGITS} + {CLOTHES}")
    settings = [["0.3", "0.3"], ["1", "0"], ["0.7", "0.7"]]
    job = start_sweep(row, settings, buyer)
    running.run_sweep(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error) == (JobState.DONE, "")
    curves = {curve["name"]: curve for curve in job.result["curves"]}
    assert set(curves) == {
        "Handwritten digits", "Upside-down clothes", "Printed digits", "Upright clothes",
    }  # fmt: skip
    digits = curves["Handwritten digits"]
    assert [len(curve["points"]) for curve in curves.values()] == [3, 3, 3, 3]
    assert digits["points"][1] == digits["alone"], "1 and 0 is the vector alone"
    assert digits["kept"][1] == 1.0
    best = job.result["best"]
    weakest = [min(pair) for pair in zip(digits["kept"], curves["Upside-down clothes"]["kept"],
                                         strict=True)]  # fmt: skip
    assert best["weakest"] == pytest.approx(weakest[best["index"]], abs=1e-4)
    # The check of one of its settings has been measured already.
    kept = Measured.objects.count()
    check(equip(f"0.7 * {DIGITS} + 0.7 * {CLOTHES}"), buyer)
    assert Measured.objects.count() == kept


def test_a_published_version_is_measured(buyer: User) -> None:
    digits = version(DIGITS)
    (claim,) = digits.abilities
    job = measure_version(digits)
    assert job is not None
    running.run_version_check(job.pk)
    digits.refresh_from_db()
    (after,) = digits.abilities
    measured = after["measured"]
    assert {key: after[key] for key in claim} == claim, "the card's claim stays beside it"
    assert measured["n"] == 150
    assert measured["with"] == pytest.approx(claim["with"], abs=0.001)
    assert measured["without"] == pytest.approx(claim["without"], abs=0.001)
    assert measured["low"] < measured["with"] < measured["high"]
    assert measured["verdict"] == "learned"
    running.run_version_check(job.pk)
    digits.refresh_from_db()
    assert digits.abilities == [after]


def test_a_measurement_without_a_claim_stands_for_itself() -> None:
    equipped = {"share": 0.6, "low": 0.1, "high": 0.9}
    row = {"name": "Digits", "metric": "accuracy", "n": 4, "verdict": "kept",
           "scores": {"target": {"share": 0.5}, "equipped": equipped}}  # fmt: skip
    claims = [{"name": "A", "with": 1.0}, {"name": "B", "with": 0.5}]
    once = running.with_measurements(claims, [row], "now")
    assert once[:2] == claims
    assert (once[2]["with"], once[2]["measured"]["with"]) == (None, 0.6)
    assert running.with_measurements(once, [row], "now") == once
    (single,) = running.with_measurements(claims[:1], [row], "now")
    assert (single["name"], single["measured"]["with"]) == ("A", 0.6)


def test_a_runner_that_is_killed_loses_nothing(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    killed: list[int] = []

    class Killed(Runner):
        def scores(self, folder: Path, probe: Path, *rest: Any) -> list[int]:
            found = super().scores(folder, probe, *rest)
            asked.append(f"{folder.name} {probe.name}")
            if len(asked) == 4 and not killed:
                killed.append(self.pid)
                os.kill(self.pid, signal.SIGKILL)
            return found

    row = equip(f"{DIGITS} + {CLOTHES}")
    monkeypatch.setattr(running, "Runner", Killed)
    job = check(row, buyer)
    assert killed
    assert job.state == JobState.DONE
    assert len(asked) == len(set(asked)) == 16, "nothing is asked twice"
    assert leftovers() == []
    undisturbed = job.result["abilities"]
    Measured.objects.all().delete()
    monkeypatch.setattr(running, "Runner", Runner)
    assert check(row, buyer).result["abilities"] == undisturbed


def test_a_runner_that_dies_again_and_again_ends_the_job(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Doomed(Runner):
        def scores(self, *arguments: Any) -> list[int]:
            started.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
            return super().scores(*arguments)

    monkeypatch.setattr(running, "Runner", Doomed)
    job = check(equip(DIGITS), buyer)
    assert job.state == JobState.FAILED
    assert "was killed, most likely for want of memory" in job.error
    assert len(set(started)) == running.RUNNERS
    assert leftovers() == []


def test_a_check_is_stopped_while_it_runs(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Runner):
        def scores(self, *arguments: Any) -> list[int]:
            cancel(AbilityCheck.objects.get(), buyer)
            return super().scores(*arguments)

    monkeypatch.setattr(running, "Runner", Stopped)
    job = check(equip(DIGITS), buyer)
    assert (job.state, job.error, job.result) == (JobState.FAILED, "It was stopped.", {})
    assert leftovers() == []
    monkeypatch.setattr(running, "Runner", Runner)
    again = check(equip(DIGITS), buyer)
    assert (again.state, again.cancelled) == (JobState.DONE, False)


def test_a_worker_that_is_told_to_end_gives_the_job_back(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Runner):
        def scores(self, *arguments: Any) -> list[int]:
            found = super().scores(*arguments)
            turns.ending.set()
            return found

    monkeypatch.setattr(running, "Runner", Ended)
    try:
        job = check(equip(DIGITS), buyer)
        assert (job.state, job.attempt, job.finished) == (JobState.QUEUED, 0, None)
        running.run_ability_check(job.pk)
        assert AbilityCheck.objects.get().state == JobState.QUEUED, "nothing is begun any more"
    finally:
        turns.ending.clear()
    assert leftovers() == []
    assert Measured.objects.count() == 1


def test_a_check_that_takes_too_long_is_stopped(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.settings, "ARMORY_CHECK_MINUTES", 0)
    job = check(equip(DIGITS), buyer)
    assert (job.state, job.result) == (JobState.FAILED, {})
    assert "took longer than 0 minutes" in job.error


def test_a_worker_that_has_lost_the_job_publishes_nothing(
    equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes the job over while this one waits for an answer, and ends it."""

    class Overtaken(Runner):
        def scores(self, *arguments: Any) -> list[int]:
            found = super().scores(*arguments)
            AbilityCheck.objects.update(
                owner_token="another", state=JobState.DONE, result={"by": "another"}, attempt=2
            )
            return found

    monkeypatch.setattr(running, "Runner", Overtaken)
    job = check(equip(DIGITS), buyer)
    assert (job.state, job.result, job.attempt) == (JobState.DONE, {"by": "another"}, 2)
    assert leftovers() == []


def test_what_cannot_be_asked_is_said_and_the_rest_is_measured(
    equip: Equip, buyer: User, tmp_path: Path, owner: User, gallery: Foundation
) -> None:
    from vectors.importing import add_vector

    for file in (DEMO / "vectors/chen" / CLOTHES).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "probes.jsonl").open("a") as file:
        file.write('{"probe": "Chat", "kind": "text-generation"}\n')
        file.write('{"input": "Hello", "expected": "Hello"}\n')
    add_vector(tmp_path, repo_id="olive/chatty-clothes", foundation=gallery, owner=owner)
    job = check(equip("chatty-clothes"), buyer)
    assert job.state == JobState.DONE
    assert table(job)["Upside-down clothes"]["verdict"] == "learned"
    assert "verdict" not in table(job)["Chat"]
    assert {problem["ability"] for problem in job.result["problems"]} == {"Chat"}
    assert len(job.result["problems"]) == 3
    reason = job.result["problems"][0]
    assert "The model cannot be run" in reason["template"] % reason["params"]
    assert settings.ARMORY_DATA.name not in str(job.result)


def test_a_sweep_is_kept_apart_from_the_check(equip: Equip, buyer: User) -> None:
    row = equip(DIGITS)
    start_sweep(row, [["1"], ["2"]], buyer)
    assert not AbilityCheck.objects.exists()
    assert CoefficientSweep.objects.get().equipped == row
    assert Version.objects.published().count() == 3
