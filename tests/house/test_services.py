"""The same shop on PostgreSQL with Redis or RabbitMQ: run by `make test-services`, which names
them in ARMORY_DATABASE, ARMORY_BROKER and ARMORY_CACHE."""

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.core.cache import cache
from django.db import connection

from tests.serving import free_port, serving, wait_until_healthy

pytestmark = pytest.mark.services


@pytest.fixture
def empty_database() -> Iterator[str]:
    """The URL of a new database on the server of ARMORY_DATABASE."""
    url = os.environ["ARMORY_DATABASE"]
    name = f"armory_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.django_db
def test_the_tests_run_on_postgresql() -> None:
    assert connection.vendor == "postgresql"


def test_the_shared_cache_keeps_a_value() -> None:
    cache.set("armory-test", 1, 10)
    assert cache.get("armory-test") == 1


def test_the_shop_opens_on_services(tmp_path: Path, empty_database: str) -> None:
    port = free_port()
    services = {
        name: os.environ[name] for name in ("ARMORY_BROKER", "ARMORY_CACHE") if os.environ.get(name)
    }
    with serving(tmp_path, port, ARMORY_DATABASE=empty_database, **services) as server:
        wait_until_healthy(port)
        assert not (tmp_path / "armory.sqlite3").exists()
        assert not (tmp_path / "queue").exists()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
