"""/healthz says 200 when all parts are there, and else which one is not."""

from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from marketplace import health
from vectors import leases

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_demo(settings: Any, tmp_path: Path) -> None:
    settings.ARMORY_DEMO = False
    settings.ARMORY_DEMO_READY = tmp_path / "demo.ready"


def test_all_is_well(client: Client) -> None:
    leases.beat()
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["ok"] is True
    assert "no-store" in answer["Cache-Control"]


def test_no_worker(client: Client) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["ok"] is False
    assert "worker" in answer.json()["worker"]


def test_no_catalogue(client: Client, settings: Any) -> None:
    settings.ARMORY_DEMO = True
    leases.beat()
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert "catalogue" in answer.json()["catalogue"]


def test_no_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("connection refused at secret-host")

    monkeypatch.setattr(health, "_migrated", True)
    monkeypatch.setattr(health.connection, "cursor", fail)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["site"] == "the database does not answer"
    assert "secret-host" not in answer.content.decode()


def test_it_only_reads(client: Client) -> None:
    assert client.post("/healthz").status_code == 405
