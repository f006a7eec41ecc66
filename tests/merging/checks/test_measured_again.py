"""A version whose own measurement failed: why, who may repeat it, what is repeated by itself."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client
from django.utils import timezone
from safetensors.torch import save_file

from merging.checks import running
from merging.checks.models import VersionCheck
from merging.checks.process import Runner
from merging.checks.services import RETRY_AFTER, measure_again, retry_measurements
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import client_of
from vectors import leases
from vectors.errors import Refusal
from vectors.importing import add_foundation, add_vector
from vectors.leases import MAX_ATTEMPTS, JobState
from vectors.models import Foundation, Vector, Version
from vectors.services import withdraw

from .conftest import version as current

PROBE = '{"probe": "Law", "kind": "text-generation"}\n{"input": "Yes?", "expected": "Yes"}\n'
KILLED = "The program that runs the models was killed, most likely for want of memory."


@pytest.fixture
def version(db: None, owner: User, tmp_path: Path) -> Version:
    """Version 1 of olive/law, which waits to be measured."""
    for name, state in (("tiny", make_state(torch.float32)),
                        ("law", tuned(make_state(torch.float32), 1))):  # fmt: skip
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
    (tmp_path / "law/probes.jsonl").write_text(PROBE)
    tiny = add_foundation(tmp_path / "tiny", repo_id="lab/tiny", card="# Tiny\n")
    return add_vector(tmp_path / "law", repo_id="olive/law", foundation=tiny, owner=owner)


def end(state: str = JobState.FAILED, *, ago: timedelta = timedelta(), **fields: Any) -> None:
    VersionCheck.objects.update(state=state, finished=timezone.now() - ago, **fields)


def job() -> VersionCheck:
    return VersionCheck.objects.get()


def page(client: Client, query: str = "") -> str:
    answer = client.get(f"/olive/law{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_owner_sees_why_and_repeats_it(
    version: Version, owner_client: Client, stranger_client: Client, client: Client
) -> None:
    end(error=KILLED)
    html = page(owner_client)
    assert "What it learned could not be measured here" in html
    assert KILLED in html
    assert "It is tried again by itself." in html
    for other in (stranger_client, client):
        assert "could not be measured" not in page(other)
        assert "Measure again" not in page(other)
    answer = owner_client.post("/olive/law/measure", {"version": "v1"})
    assert answer["Location"] == "/olive/law?version=v1#measured"
    assert (job().state, job().error, job().requested_by) == (JobState.QUEUED, "", version.owner)
    html = page(owner_client)
    assert "Its held-out items are being asked" in html
    assert "Measure again" not in html


def test_strangers_repeat_nothing_and_the_shop_keeper_does(
    version: Version, stranger: User, client: Client, stranger_client: Client
) -> None:
    end(error=KILLED)
    for other in (stranger_client, client):
        assert other.post("/olive/law/measure", {"version": "v1"}).status_code == 404
    for user in (stranger, AnonymousUser()):
        with pytest.raises(Refusal, match="Only its owner"):
            measure_again(version, user)
    assert job().state == JobState.FAILED
    stranger.is_staff = True
    stranger.save()
    keeper = client_of(stranger)
    assert "Measure again" in page(keeper)
    assert keeper.post("/olive/law/measure", {"version": "v2"}).status_code == 404
    assert keeper.post("/olive/law/measure", {"version": "v1"}).status_code == 302
    assert job().state == JobState.QUEUED


def test_never_twice_at_once(version: Version, owner: User) -> None:
    """Whoever asks while it waits, runs or is done changes nothing."""
    assert measure_again(version, owner).state == JobState.QUEUED
    lease = leases.claim(VersionCheck, job().pk)
    assert lease is not None
    before = VersionCheck.objects.values().get()
    assert measure_again(version, owner).state == JobState.RUNNING
    assert retry_measurements() == 0
    assert VersionCheck.objects.values().get() == before, "it runs, and goes on"
    end(JobState.DONE, result={"abilities": [], "problems": []})
    assert measure_again(version, owner).state == JobState.DONE, "all of it is there"
    assert VersionCheck.objects.count() == 1


def test_what_is_missing_of_a_measurement_is_said_and_repeated(
    version: Version, owner: User, owner_client: Client
) -> None:
    problem = {"model": "equipped", "ability": "Law", "template": "There is no tokenizer.",
               "params": {}}  # fmt: skip
    end(JobState.DONE, result={"abilities": [], "problems": [problem]})
    html = page(owner_client)
    assert "Not all of it could be measured here" in html
    assert "<b>Law</b>, olive/law v1: There is no tokenizer." in html
    assert "by itself" not in html
    assert measure_again(version, owner).state == JobState.QUEUED
    end(JobState.DONE, result={"abilities": [], "problems": []})
    assert "Measured here" not in page(owner_client)


def test_what_the_machine_failed_at_is_repeated_a_few_times_later_each_time(
    version: Version, owner: User
) -> None:
    for retries, wait in enumerate(RETRY_AFTER):
        end(error=KILLED, ago=wait - timedelta(minutes=1))
        assert retry_measurements() == 0
        end(error=KILLED, ago=wait + timedelta(minutes=1))
        assert retry_measurements() == 1
        assert (job().state, job().retries, job().attempt) == (JobState.QUEUED, retries + 1, 0)
        assert retry_measurements() == 0
    end(error=KILLED, ago=timedelta(days=99))
    assert retry_measurements() == 0, "it was tried often enough"
    assert measure_again(version, owner).retries == 0
    end(error=KILLED, ago=timedelta(days=99))
    assert retry_measurements() == 1, "somebody asked: it counts anew"


def test_a_job_whose_workers_were_lost_is_repeated(version: Version) -> None:
    past = timezone.now() - timedelta(minutes=1)
    VersionCheck.objects.update(
        state=JobState.RUNNING, attempt=MAX_ATTEMPTS, lease_until=past, rung_at=timezone.now()
    )
    leases.sweep_all()
    assert job().state == JobState.FAILED
    VersionCheck.objects.update(finished=past - RETRY_AFTER[0])
    assert retry_measurements() == 1
    assert (job().state, job().attempt) == (JobState.QUEUED, 0)


def test_what_fails_for_the_models_sake_is_not_repeated_by_itself(
    version: Version, owner: User, owner_client: Client
) -> None:
    refusal = {"template": "The check took longer than %(minutes)d minutes and was stopped.",
               "params": {"minutes": 60}}  # fmt: skip
    end(error="…", refusal=refusal, ago=timedelta(days=99))
    assert retry_measurements() == 0
    html = page(owner_client)
    assert "took longer than 60 minutes" in html
    assert "by itself" not in html
    chinese = owner_client.get("/olive/law", headers={"accept-language": "zh-hant"})
    assert "檢驗超過 60 分鐘，已停止。" in chinese.content.decode()
    assert measure_again(version, owner).refusal == {}


def test_what_is_off_the_shelves_or_switched_off_is_left_alone(
    version: Version, owner: User, owner_client: Client, settings: Any
) -> None:
    end(error=KILLED, ago=timedelta(days=1))
    settings.ARMORY_CHECKS_AT_ONCE = 0
    assert retry_measurements() == 0
    with pytest.raises(Refusal, match="runs no checks"):
        measure_again(version, owner)
    answer = owner_client.post("/olive/law/measure", {"version": "v1"}, follow=True)
    assert "This site runs no checks" in answer.content.decode()
    settings.ARMORY_CHECKS_AT_ONCE = 1
    withdraw(version)
    assert retry_measurements() == 0
    with pytest.raises(Refusal, match="Only a published version"):
        measure_again(Version.objects.get(), owner)


def test_the_address_alone_leads_to_the_page(version: Version, client: Client) -> None:
    answer = client.get("/olive/law/measure?version=v1")
    assert answer["Location"] == "/olive/law?version=v1#measured"
    assert client.get("/olive/nothing/measure", follow=True).status_code == 404


def measured_by(runner: type[Runner], monkeypatch: pytest.MonkeyPatch) -> VersionCheck:
    monkeypatch.setattr(running, "Runner", runner)
    found = VersionCheck.objects.get(version=current("handwritten-digits"))
    running.run_version_check(found.pk)
    found.refresh_from_db()
    return found


def ends_with(number: signal.Signals) -> type[Runner]:
    class Doomed(Runner):
        def scores(self, *arguments: Any) -> list[int]:
            os.kill(self.pid, number)
            return super().scores(*arguments)

    return Doomed


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("number", "sentence", "again"),
    [
        (signal.SIGKILL, "was killed", 1),
        (signal.SIGSEGV, "crashed", 0),
    ],
)
def test_a_program_that_is_killed_is_the_machines_fault_and_one_that_crashes_the_models(
    gallery: Foundation,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    sentence: str,
    again: int,
) -> None:
    found = measured_by(ends_with(number), monkeypatch)
    assert found.state == JobState.FAILED
    assert sentence in found.error
    assert bool(found.refusal) == (not again)
    VersionCheck.objects.filter(pk=found.pk).update(finished=timezone.now() - timedelta(days=1))
    assert retry_measurements() == again
    if again:
        whole = measured_by(Runner, monkeypatch)
        assert (whole.state, whole.result["problems"]) == (JobState.DONE, [])
        abilities = Vector.objects.get(name="handwritten-digits").current.abilities  # type: ignore[union-attr]
        assert any("measured" in row for row in abilities)
