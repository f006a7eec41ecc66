"""A stocked site, people with tokens, and the real clients as processes of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import NEWEST, OLD, Client
from tests.e2e import models
from tests.e2e.site import Site

TOKENS = """
import json
from django.contrib.auth import get_user_model
from marketplace.accounts.tokens import make_token
tokens = {}
for user in get_user_model().objects.filter(username__in=("olive", "nora", "sten")):
    for scope in ("read", "write"):
        tokens[user.username + " " + scope] = make_token(user=user, name=scope, scope=scope)[0]
print(json.dumps(tokens))
"""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: lab/tiny-bert, olive/mood (LoRA), olive/law (full), nora/french (delta),
    and what is yet to be pushed below new/."""
    root = tmp_path_factory.mktemp("models")
    base = models.write_bert(root / models.FOUNDATION)
    models.write_lora(root / "olive/mood", base, "Mood")
    models.write_full(root / "olive/law", base, "Law")
    models.write_delta(root / "nora/french", base, "French")
    return root


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """The running shop with the models of ``folders`` and the users olive, nora and sten."""
    running = Site(tmp_path_factory.mktemp("site"))
    running.start()
    try:
        folders: Path = request.getfixturevalue("folders")  # written while the site starts
        running.wait_until_ready()
        running.stock(
            users=("olive", "nora", "sten"),
            foundations=[(folders / models.FOUNDATION, models.FOUNDATION)],
            vectors=[
                (folders / name, name, models.FOUNDATION)
                for name in ("olive/mood", "olive/law", "nora/french")
            ],
        )
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def tokens(site: Site) -> dict[str, str]:
    """Tokens by ``name scope``: ``olive write``."""
    found: dict[str, str] = json.loads(site.shell(TOKENS))
    return found


@pytest.fixture
def client(site: Site, tokens: dict[str, str], tmp_path: Path) -> Client:
    """The newest client, signed in as nobody, with an empty cache."""
    return Client(NEWEST, site.address, tmp_path / "home", tokens)


@pytest.fixture(params=[NEWEST, *(pytest.param(v, marks=pytest.mark.clients) for v in OLD)])
def any_client(
    request: pytest.FixtureRequest, site: Site, tokens: dict[str, str], tmp_path: Path
) -> Client:
    """The newest client and, in `make test-clients`, the old ones."""
    return Client(request.param, site.address, tmp_path / "home", tokens)
