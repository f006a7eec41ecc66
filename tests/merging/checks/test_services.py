"""Who may start a check, what a second start does, how one is stopped, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from merging.checks import running, turns
from merging.checks.models import AbilityCheck, CoefficientSweep, VersionCheck
from merging.checks.services import MAX_RUNNING, cancel, start_check, start_sweep
from merging.models import EquippedModel
from vectors.errors import Refusal
from vectors.importing import add_vector
from vectors.leases import JobState
from vectors.models import Foundation, Version
from vectors.services import withdraw
from vectors.tensorfile.errors import Problem

from .conftest import DEMO, version

Equip = Callable[..., EquippedModel]
DIGITS = "handwritten-digits"


@pytest.fixture
def row(gallery: Foundation, equip: Equip) -> EquippedModel:
    return equip(DIGITS)


def test_a_check_is_started_once(row: EquippedModel, buyer: User, stranger: User) -> None:
    first = start_check(row, buyer)
    assert start_check(row, stranger).pk == first.pk
    assert AbilityCheck.objects.get().requested_by == buyer, "it runs for the one who asked first"
    AbilityCheck.objects.update(state=JobState.DONE, result={"abilities": []}, attempt=3)
    again = start_check(row, stranger)
    assert (again.pk, again.state, again.attempt) == (first.pk, JobState.QUEUED, 0)
    assert again.requested_by == stranger
    assert again.result == {"abilities": []}, "the old table stays until there is a new one"


def test_who_may_not_use_a_part_may_not_check_it(
    row: EquippedModel, buyer: User, stranger: User
) -> None:
    withdraw(version(DIGITS))
    with pytest.raises(Refusal, match="You may not use every part"):
        start_check(row, stranger)
    with pytest.raises(Refusal, match="You may not use every part"):
        start_sweep(row, [["1"], ["0.5"]], stranger)
    with pytest.raises(Refusal, match="Sign in"):
        start_check(row, AnonymousUser())
    assert not AbilityCheck.objects.exists()
    start_check(row, version(DIGITS).owner)


def test_probes_of_others_are_read_only_with_the_right_to(row: EquippedModel, buyer: User) -> None:
    clothes = version("upside-down-clothes")
    withdraw(clothes)
    with pytest.raises(Refusal, match=r"The probes of chen/upside-down-clothes v1 cannot be used"):
        start_check(row, buyer, also=[clothes])
    assert not AbilityCheck.objects.exists()
    job = start_check(row, buyer, also=[version("dark-on-light-digits")])
    assert [str(each) for each in job.also.all()] == ["dora/dark-on-light-digits v1"]


def test_probes_are_not_added_to_a_check_that_runs(row: EquippedModel, buyer: User) -> None:
    more = [version("dark-on-light-digits")]
    job = start_check(row, buyer)
    start_check(row, buyer, also=more)
    job.also.clear()
    AbilityCheck.objects.update(state=JobState.RUNNING)
    with pytest.raises(Refusal, match="is being checked"):
        start_check(row, buyer, also=more)
    assert not job.also.exists()
    assert start_check(row, buyer).state == JobState.RUNNING


def test_a_model_that_is_too_large_is_not_started(
    row: EquippedModel, buyer: User, settings: Any
) -> None:
    settings.ARMORY_CHECK_MEMORY_GB = 1
    row.nbytes = 501 * 10**6
    with pytest.raises(Refusal, match=r"0\.5 GB; this site runs models of up to 0\.5 GB"):
        start_check(row, buyer)


def test_a_site_may_run_no_checks(row: EquippedModel, buyer: User, settings: Any) -> None:
    settings.ARMORY_CHECKS_AT_ONCE = 0
    with pytest.raises(Refusal, match="runs no checks"):
        start_check(row, buyer)
    assert turns.taken_by_others(VersionCheck)


def test_one_user_has_a_few_checks_at_a_time(
    gallery: Foundation, equip: Equip, buyer: User, stranger: User
) -> None:
    rows = [equip(f"{n + 1} * {DIGITS}") for n in range(MAX_RUNNING + 1)]
    for each in rows[:MAX_RUNNING]:
        start_check(each, buyer)
    with pytest.raises(Refusal, match=f"You have {MAX_RUNNING} checks under way"):
        start_check(rows[MAX_RUNNING], buyer)
    with pytest.raises(Refusal, match="checks under way"):
        start_sweep(rows[0], [["1"], ["0.5"]], buyer)
    assert (AbilityCheck.objects.count(), CoefficientSweep.objects.count()) == (MAX_RUNNING, 0)
    start_check(rows[MAX_RUNNING], stranger)
    cancel(AbilityCheck.objects.filter(requested_by=buyer)[0], buyer)
    start_sweep(rows[0], [["1"], ["0.5"]], buyer)


def test_equal_sweeps_are_one(gallery: Foundation, equip: Equip, buyer: User) -> None:
    row = equip(f"{DIGITS} + upside-down-clothes")
    first = start_sweep(row, [["1", "1"], ["0.50", "0.5"], ["1", "1.0"]], buyer)
    assert first.settings == [["1", "1"], ["0.5", "0.5"]]
    assert start_sweep(row, [["0.5", "0.5"], ["1", "1"]], buyer).pk == first.pk
    assert start_sweep(row, [["0.5", "0.5"], ["1", "0"]], buyer).pk != first.pk


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([["1"]], "from 2 to 12 different settings"),
        ([[str(n)] for n in range(13)], "from 2 to 12 different settings"),
        ([["1"], ["1", "2"]], "a coefficient for each of the 1 vectors"),
        ([["1"], ["much"]], "much is not a number"),
        ([["1"], ["1000"]], "out of range"),
    ],
)
def test_settings_that_are_none(
    row: EquippedModel, buyer: User, settings: Any, sentence: str
) -> None:
    with pytest.raises(Problem, match=sentence):
        start_sweep(row, settings, buyer)
    assert not CoefficientSweep.objects.exists()


def test_only_who_started_it_may_stop_it(row: EquippedModel, buyer: User, stranger: User) -> None:
    job = start_check(row, buyer)
    with pytest.raises(Refusal, match="Only who started"):
        cancel(job, stranger)
    with pytest.raises(Refusal, match="Only who started"):
        cancel(job, AnonymousUser())
    cancel(job, buyer)
    assert (job.state, job.error) == (JobState.FAILED, "It was stopped.")
    running.run_ability_check(job.pk)
    job.refresh_from_db()
    assert (job.state, job.attempt) == (JobState.FAILED, 0), "a stopped job is not begun"


def test_a_running_job_is_stopped_by_its_column(row: EquippedModel, buyer: User) -> None:
    job = start_check(row, buyer)
    AbilityCheck.objects.update(state=JobState.RUNNING)
    cancel(job, buyer)
    assert (job.state, job.cancelled) == (JobState.RUNNING, True)


def test_what_is_published_is_measured_once(gallery: Foundation) -> None:
    assert VersionCheck.objects.count() == 3
    digits = version(DIGITS)
    add_vector(
        DEMO / "vectors/bo" / DIGITS,
        repo_id=f"bo/{DIGITS}",
        foundation=gallery,
        owner=digits.owner,
    )
    withdraw(digits)
    assert VersionCheck.objects.count() == 3


def test_asked_checks_go_first_and_one_runs_at_a_time(row: EquippedModel, buyer: User) -> None:
    waiting = VersionCheck.objects.all()[0]
    assert not turns.taken_by_others(VersionCheck)
    job = start_check(row, buyer)
    assert turns.taken_by_others(VersionCheck), "somebody waits for a check"
    running.run_version_check(waiting.pk)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.attempt) == (JobState.QUEUED, 0)
    soon = timezone.now() + timedelta(minutes=1)
    VersionCheck.objects.filter(pk=waiting.pk).update(state=JobState.RUNNING, lease_until=soon)
    assert turns.taken_by_others(AbilityCheck)
    VersionCheck.objects.filter(pk=waiting.pk).update(lease_until=timezone.now())
    assert not turns.taken_by_others(AbilityCheck), "its worker is dead"
    assert job.state == JobState.QUEUED


def test_a_bad_probe_file_is_refused_with_its_line(
    gallery: Foundation, tmp_path: Any, owner: User
) -> None:
    source = DEMO / "vectors/chen/upside-down-clothes"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = (tmp_path / "probes.jsonl").read_text().splitlines()
    lines[7] = lines[7].replace('"expected"', '"answer"')
    (tmp_path / "probes.jsonl").write_text("\n".join(lines))
    with pytest.raises(Problem, match=r"probes\.jsonl:8: `answer` is not known here"):
        add_vector(tmp_path, repo_id="olive/clothes", foundation=gallery, owner=owner)
    assert not Version.objects.filter(owner=owner).exists()
