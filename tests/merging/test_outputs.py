"""A recipe's page gives it as a difference and, where it is one, as a LoRA; strangers get none."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import User
from django.test import Client
from safetensors.torch import load, save_file

from tests.engine.models import State, foundation, tuned
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Version

pytestmark = pytest.mark.django_db(transaction=True)

CARD = "---\nbase_model: lab/tiny\nlicense: mit\n---\n# A vector\n"


def add(tmp_path: Path, owner: User, tiny: Foundation, name: str, state: State) -> Version:
    folder = tmp_path / name
    folder.mkdir()
    lora = any("lora_A" in key for key in state)
    if lora:
        state = {f"base_model.model.{key}": value for key, value in state.items()}
        (folder / "adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 6}))
    save_file(state, folder / ("adapter_model.safetensors" if lora else "model.safetensors"))
    (folder / "README.md").write_text(CARD)
    return add_vector(folder, repo_id=f"olive/{name}", foundation=tiny, owner=owner)


def factors(seed: int) -> State:
    draw = torch.Generator().manual_seed(seed)
    return {
        "layers.1.lora_A.weight": torch.randn(3, 53, generator=draw),
        "layers.1.lora_B.weight": torch.randn(37, 3, generator=draw),
    }


@pytest.fixture
def shop(tmp_path: Path, owner: User) -> dict[str, Version]:
    """The foundation lab/tiny, two LoRAs and a fine-tune of it, all olive's."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file(foundation(torch.bfloat16), folder / "model.safetensors")
    tiny = add_foundation(folder, repo_id="lab/tiny", card="---\nlicense: mit\n---\n# Tiny\n")
    states = {
        "one": factors(1),
        "two": factors(2),
        "fine": tuned(foundation(torch.bfloat16), 1),
    }
    return {name: add(tmp_path, owner, tiny, name, state) for name, state in states.items()}


def equip(client: Client, **weights: str) -> str:
    answer = client.post(
        "/equip",
        {
            "vector": [f"olive/{name}" for name in weights],
            "coefficient": list(weights.values()),
            "on": "lab/tiny",
        },
    )
    return answer["Location"].split("?")[0]


def body(answer: object) -> bytes:
    return b"".join(answer.streaming_content)  # type: ignore[attr-defined]


def test_a_sum_of_loras_downloads_as_one(shop: dict[str, Version], client: Client) -> None:
    page = equip(client, one="1", two="-0.5")
    assert f'href="{page}/lora.zip"' in client.get(page).content.decode()
    answer = client.get(f"{page}/lora.zip")
    content = body(answer)
    assert len(content) == int(answer["Content-Length"])
    archive = zipfile.ZipFile(io.BytesIO(content))
    held = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    assert set(held) == {"adapter_config.json", "adapter_model.safetensors", "recipe.yaml"}
    config = json.loads(held["adapter_config.json"])
    assert (config["r"], config["base_model_name_or_path"]) == (6, "lab/tiny")
    found = load(held["adapter_model.safetensors"])
    key = "base_model.model.layers.1.lora_"
    products = [
        state["layers.1.lora_B.weight"] @ state["layers.1.lora_A.weight"]
        for state in (factors(1), factors(2))
    ]
    torch.testing.assert_close(
        found[f"{key}B.weight"] @ found[f"{key}A.weight"],
        2 * products[0] - products[1],
        atol=1e-4,
        rtol=1e-5,
    )


def test_the_difference_downloads_whole_and_in_parts(
    shop: dict[str, Version], client: Client
) -> None:
    page = equip(client, fine="0.5", one="1")
    html = client.get(page).content.decode()
    assert f'href="{page}/delta.safetensors"' in html
    assert "lora.zip" not in html
    assert client.get(f"{page}/lora.zip").status_code == 404
    answer = client.get(f"{page}/delta.safetensors")
    whole = body(answer)
    assert len(whole) == int(answer["Content-Length"])
    part = client.get(f"{page}/delta.safetensors", headers={"Range": "bytes=5000-9999"})
    assert (part.status_code, body(part)) == (206, whole[5000:10000])
    found = load(whole)
    fine, base = tuned(foundation(torch.bfloat16), 1), foundation(torch.bfloat16)
    change = fine["norm.bias"].float() - base["norm.bias"].float()
    assert found["norm.bias"].equal(0.5 * change)
    assert "positions" not in found


def test_what_a_stranger_may_not_equip_no_form_of_it_is_given(
    shop: dict[str, Version], client: Client, owner_client: Client, stranger_client: Client
) -> None:
    page = equip(client, one="1", two="-0.5")
    shop["two"].state = Version.State.WITHDRAWN
    shop["two"].save(update_fields=["state"])
    for path in (f"{page}/lora.zip", f"{page}/delta.safetensors"):
        for other in (client, stranger_client):
            assert other.get(path).status_code == 404
        assert owner_client.head(path).status_code == 200
        assert owner_client.post(path).status_code == 405


def test_a_recipe_that_changes_nothing_offers_neither(
    shop: dict[str, Version], client: Client
) -> None:
    page = equip(client, one="0")
    html = client.get(page).content.decode()
    assert "delta.safetensors" not in html
    assert "lora.zip" not in html
    assert client.get(f"{page}/delta.safetensors").status_code == 404
