"""A worker killed in the middle of a check: its runner goes with it, and another goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.e2e.site import wait_for
from tests.environment import clean_environment
from tests.serving import processes_with

pytestmark = pytest.mark.slow

STOCK = """
from django.core.management import call_command
call_command("migrate", verbosity=0)
from merging.checks.models import VersionCheck
from merging.checks.services import start_check
from merging.services import equip_expression
from tests.merging.checks.conftest import CONVNEXT, shelve, stock
from tests.people import person
shelve(stock(CONVNEXT), "handwritten-digits", "upside-down-clothes")
VersionCheck.objects.all().delete()
user = person("olive")
row = equip_expression("handwritten-digits + upside-down-clothes", on="", user=user)
print(start_check(row, user).pk)
"""
RUN = "from merging.checks.running import run_ability_check; run_ability_check({})"
CELLS = 16  # four models, two abilities and two controls


class Shop:
    """A data folder of its own, and processes that work in it."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def start(self, code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", "shell", "-v0", "-c", code],
            cwd=settings.BASE_DIR,
            env=clean_environment(self.data, ARMORY_LEASE_SECONDS="2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str) -> str:
        process = self.start(code)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out

    def rows(self, question: str) -> list[Any]:
        with closing(sqlite3.connect(self.data / "armory.sqlite3", timeout=20)) as connection:
            return connection.execute(question).fetchall()

    def measured(self) -> list[Any]:
        """What has been measured so far, in order."""
        return self.rows("SELECT id, model, probe, scores FROM merging_measured ORDER BY id")

    def job(self) -> dict[str, Any]:
        columns = "state", "attempt", "finished", "result"
        (row,) = self.rows(f"SELECT {', '.join(columns)} FROM merging_abilitycheck")
        return dict(zip(columns, row, strict=True))


def test_a_killed_worker_loses_nothing_and_publishes_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    pk = int(shop.run(STOCK))
    worker = shop.start(RUN.format(pk))
    wait_for(shop.measured, lambda rows: len(rows) >= 2)
    os.kill(worker.pid, signal.SIGSTOP)
    kept = shop.measured()
    assert len(kept) < CELLS, "the check has ended already"
    runners = set(processes_with(str(tmp_path))) - {worker.pid}
    assert runners
    worker.kill()
    worker.wait()
    wait_for(lambda: processes_with(str(tmp_path)), lambda left: not left)
    assert shop.job()["state"] == "running"
    kept = shop.measured()

    overdue = "SELECT lease_until < datetime('now') FROM merging_abilitycheck"
    wait_for(lambda: shop.rows(overdue)[0][0], bool)
    shop.run(RUN.format(pk))
    done = shop.job()
    assert (done["state"], done["attempt"]) == ("done", 2)
    assert len(json.loads(done["result"])["abilities"]) == 4
    assert len(shop.measured()) == CELLS
    assert shop.measured()[: len(kept)] == kept, "what was measured before is not asked again"
    assert list((tmp_path / "checks").iterdir()) == []
    shop.run(RUN.format(pk))
    assert shop.job() == done
