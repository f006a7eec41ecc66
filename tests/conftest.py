"""What every test has. The throw-away data folder is made in tests/settings.py."""

from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import TransactionTestCase

pytest_plugins = ["tests.people"]

DATABASE_FIXTURES = {"db", "transactional_db", "django_db_setup", "live_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what touches the database, so that `make test-services` can run it on PostgreSQL."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        cls = getattr(item, "cls", None)
        if (
            item.get_closest_marker("django_db")
            or fixtures & DATABASE_FIXTURES
            or (cls is not None and issubclass(cls, TransactionTestCase))
        ):
            item.add_marker("database")


@pytest.fixture(autouse=True)
def armory_data() -> Path:
    """The data folder of this test process; a test can never see the developer's own."""
    path = Path(settings.ARMORY_DATA)
    assert path.name.startswith("armory-tests-"), f"the tests would write into {path}"
    return path


@pytest.fixture(autouse=True)
def _no_rate_limit_of_the_test_before() -> None:
    cache.clear()
