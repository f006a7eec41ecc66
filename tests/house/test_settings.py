"""The settings start with no variable at all, and a bad value stops the start by its name."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from tests.environment import clean_environment

SHOW = (
    "from django.conf import settings as s;"
    "import json;"
    "print(json.dumps([s.DEBUG, s.SECRET_KEY, s.DATABASES['default'], s.CELERY_BROKER_URL, s.PORT,"
    " s.CACHES['default'], s.CONTENT_SECURITY_POLICY['DIRECTIVES']['connect-src'],"
    " s.EMAIL_BACKEND], default=str))"
)


def load(data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=settings.BASE_DIR,
        env=clean_environment(data, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_needs_no_variable(tmp_path: Path) -> None:
    result = load(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "armory.sqlite3" in result.stdout
    assert "filesystem://" in result.stdout
    assert result.stdout.startswith("[false, ")


def test_it_keeps_its_secret_to_itself(tmp_path: Path) -> None:
    first, second = load(tmp_path), load(tmp_path)
    secret = (tmp_path / "secret_key").read_text()
    assert len(secret) > 50
    assert secret in first.stdout
    assert secret in second.stdout
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    names = "PORT ARMORY_DEBUG ARMORY_DATABASE ARMORY_BROKER ARMORY_CACHE ARMORY_HOSTS"
    result = load(tmp_path, **dict.fromkeys(names.split(), ""))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("ARMORY_DEBUG", "maybe"),
        ("ARMORY_HTTPS", "https"),
        ("ARMORY_DEMO", "2"),
        ("ARMORY_DATABASE", "mysql://localhost/armory"),
        ("ARMORY_DATABASE", "postgres"),
        ("ARMORY_DATABASE", "postgres://u:hunter2@host:abc/armory"),
        ("ARMORY_BROKER", "sqla+sqlite:///x"),
        ("ARMORY_CACHE", "memcached://localhost"),
        ("ARMORY_ORIGINS", "armory.example"),
        ("ARMORY_S3_ENDPOINT", "localhost:9000"),
        ("ARMORY_EMAIL_URL", "mail.example.org"),
        ("ARMORY_DATA", "/dev/null/data"),
    ],
)
def test_a_bad_value_stops_the_start_by_its_name(tmp_path: Path, name: str, value: str) -> None:
    result = load(tmp_path, **{name: value})
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode != 0
    assert "ImproperlyConfigured" in last
    assert name in last
    assert "hunter2" not in last


def test_an_endpoint_without_a_bucket_is_a_mistake(tmp_path: Path) -> None:
    result = load(tmp_path, ARMORY_S3_ENDPOINT="http://127.0.0.1:8333")
    assert "ARMORY_S3_BUCKET" in result.stderr


def test_other_services_are_one_variable_each(tmp_path: Path) -> None:
    result = load(
        tmp_path,
        ARMORY_DATABASE="postgres://armory:p%40ss@db.example:5433/shop",
        ARMORY_BROKER="redis://queue.example:6379/1",
        ARMORY_CACHE="redis://cache.example:6379/2",
        ARMORY_S3_BUCKET="blobs",
        ARMORY_S3_ENDPOINT="http://s3.example:8333/",
        ARMORY_EMAIL_URL="smtp+tls://me:secret@mail.example",
    )
    assert result.returncode == 0, result.stderr
    for part in (
        "postgresql",
        "p@ss",
        "redis://queue.example",
        "redis://cache.example",
        '"http://s3.example:8333"',
        "smtp.EmailBackend",
    ):
        assert part in result.stdout
    assert "transaction_mode" not in result.stdout
