"""Signing in with the real clients, and asking for what is not open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.client import Client
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import Visitor

pytestmark = pytest.mark.slow

WAITING = "SELECT user_code FROM marketplace_devicelogin WHERE state = 'pending'"

# Who signed in by a device renews their token when it has less than a day left.
AGED = """
import json, re, time, sys
from pathlib import Path
from huggingface_hub import constants, get_token, whoami
stored = Path(constants.HF_STORED_TOKENS_PATH)
before = get_token()
soon = f"expires_at = {int(time.time()) + 60}"
stored.write_text(re.sub(r"expires_at = \\d+", soon, stored.read_text()))
from huggingface_hub.utils import _auth
_auth._OAUTH_REFRESH_CACHE = None
after = get_token()
print(json.dumps({"renewed": before != after, "name": whoami()["name"]}))
"""


def test_hf_auth_login_by_the_browser(client: Client, site: Site) -> None:
    """The command prints a code and waits; its user approves the code on a page."""
    olive = Visitor(site, "olive")
    with ThreadPoolExecutor(1) as pool:
        login = pool.submit(client.hf, "auth", "login", "--format", "human")
        (code,) = wait_for(lambda: site.row(WAITING), bool)
        page = olive.get(f"/device?code={code}")
        assert "hf auth login" in page.text
        done = olive.post("/device", form="/device", code=code, answer="approve", scope="write")
        assert done.status == 200
        ended = login.result()
    assert ended.returncode == 0, ended.stderr
    assert f"/device?code={code}" in ended.stdout
    who = client.hf("auth", "whoami", "--format", "json")
    assert json.loads(who.stdout)["user"] == "olive", who.stderr
    assert client.python(AGED) == {"renewed": True, "name": "olive"}
    tokens = olive.get("/settings/tokens").text
    assert tokens.count("<b>hf auth login 20") == 1, "renewing leaves one entry"


def test_hf_auth_login_refused(client: Client, site: Site) -> None:
    olive = Visitor(site, "olive")
    with ThreadPoolExecutor(1) as pool:
        login = pool.submit(client.hf, "auth", "login", "--format", "human")
        (code,) = wait_for(lambda: site.row(WAITING), bool)
        olive.post("/device", form="/device", code=code, answer="refuse")
        ended = login.result()
    assert ended.returncode != 0
    assert "denied" in ended.stdout + ended.stderr


def test_a_pasted_token_signs_in(any_client: Client) -> None:
    who = any_client.signed_in("nora").hf("auth", "whoami")
    assert "nora" in who.stdout, who.stderr
    login = any_client.hf("auth", "login", "--token", any_client.tokens["nora read"])
    assert login.returncode == 0, login.stderr
    assert "nora" in any_client.hf("auth", "whoami").stdout
    wrong = any_client.hf("auth", "login", "--token", "arm_wrong")
    assert wrong.returncode != 0


@pytest.fixture
def gated(client: Client) -> Iterator[str]:
    """olive/mood, whose owner decides who reads it; open again at the end."""
    olive = client.signed_in("olive")
    change = "import sys\nfrom huggingface_hub import HfApi\n"
    change += (
        "HfApi().update_repo_settings('olive/mood', gated=sys.argv[1] == 'manual' and 'manual')"
    )
    assert olive.run(change, "manual").returncode == 0
    yield "olive/mood"
    assert olive.run(change, "").returncode == 0


ANSWER = """
import json
from huggingface_hub import HfApi
api = HfApi()
asked = [(r.username, r.status, r.fields) for r in api.list_pending_access_requests("olive/mood")]
api.accept_access_request("olive/mood", "sten")
api.grant_access("olive/mood", "nora")
api.reject_access_request("olive/mood", "nora", rejection_reason=None)
print(json.dumps({
    "asked": asked,
    "accepted": [r.username for r in api.list_accepted_access_requests("olive/mood")],
    "rejected": [r.username for r in api.list_rejected_access_requests("olive/mood")],
}))
"""


def test_a_gated_vector_is_asked_for_given_and_downloaded(
    client: Client, site: Site, gated: str, tmp_path: Path
) -> None:
    sten = client.signed_in("sten")
    fetch = "from huggingface_hub import hf_hub_download\n"
    fetch += "hf_hub_download('olive/mood', 'adapter_model.safetensors')"
    refused = sten.run(fetch)
    assert "GatedRepoError" in refused.stderr
    assert f"{site.address}/{gated}" in refused.stderr, "it says where to ask"
    page = f"/{gated}"
    Visitor(site, "sten").post(f"{page}/ask", form=page, reason="thesis")
    answered = client.signed_in("olive").python(ANSWER)
    assert answered == {
        "asked": [["sten", "pending", {"reason": "thesis"}]],
        "accepted": ["sten"],
        "rejected": ["nora"],
    }
    assert sten.run(fetch).returncode == 0
    nora = replace(client.signed_in("nora"), home=tmp_path / "hers")  # with no files of Sten's
    assert "GatedRepoError" in nora.run(fetch).stderr
