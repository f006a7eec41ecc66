"""Other weights than there were: the old ones leave with the commit that brings the new ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from safetensors.torch import save

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.hub.test_pushing import (
    CARD,
    Hub,
    deleted,
    hub_of,
    inspect_all,
    message,
    tiny,
    version_of,
    weights,
)
from vectors.commits import tree_of
from vectors.models import Foundation, Vector, Version

__all__ = ["tiny"]  # a fixture
pytestmark = pytest.mark.django_db(transaction=True)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def shards(seed: int, of: int) -> dict[str, str | bytes]:
    """A full fine-tune of lab/tiny in ``of`` files, and the index of them."""
    state = tuned(make_state(torch.float32), seed)
    names = [f"model-{n + 1:05}-of-{of:05}.safetensors" for n in range(of)]
    where = {tensor: names[place % of] for place, tensor in enumerate(sorted(state))}
    files: dict[str, str | bytes] = {
        name: save({tensor: state[tensor] for tensor in where if where[tensor] == name})
        for name in names
    }
    return {**files, INDEX: json.dumps({"metadata": {}, "weight_map": where})}


@pytest.fixture
def olive(tiny: Foundation, owner: User) -> Hub:
    hub = hub_of(owner)
    hub.create()
    return hub


def publish(hub: Hub, files: dict[str, str | bytes]) -> Version:
    """Push, inspect, and the version that it became."""
    commit = hub.push(files)
    inspect_all()
    version = version_of(commit)
    assert version.state == Version.State.PUBLISHED, version.refusal
    return version


def paths(version: Version) -> set[str]:
    return set(tree_of(version))


Files = Callable[[int], dict[str, str | bytes]]
SETS: dict[str, Files] = {
    "single": lambda seed: {SINGLE: weights(seed)},
    "three": lambda seed: shards(seed, 3),
    "two": lambda seed: shards(seed, 2),
}


@pytest.mark.parametrize("old", SETS)
@pytest.mark.parametrize("new", SETS)
def test_one_set_of_weights_replaces_another(olive: Hub, old: str, new: str) -> None:
    first = publish(olive, {**SETS[old](1), "README.md": CARD, "config.json": "{}"})
    second = publish(olive, SETS[new](2))
    assert paths(first) == {*SETS[old](1), "README.md", "config.json"}
    assert paths(second) == {*SETS[new](2), "README.md", "config.json"}
    assert second.digest == publish(hub_of(second.owner, again(olive)), SETS[new](2)).digest


def again(olive: Hub) -> str:
    """Another repository of the same owner, for the same weights without a history."""
    assert olive.create("fresh").status_code == 200
    return "olive/fresh"


def test_the_client_is_told_what_left(olive: Hub) -> None:
    publish(olive, {SINGLE: weights(1)})
    lines = [olive.line(path, content) for path, content in shards(2, 2).items()]
    said = olive.commit(*lines).headers["X-HF-Warning"]
    assert f"Removed, because the weights of this commit replace them: {SINGLE}." in said
    assert "It is compared with lab/tiny now" in said
    inspect_all()
    lines = [olive.line(SINGLE, weights(1)), deleted(INDEX)]
    said = olive.commit(*lines).headers["X-HF-Warning"]
    assert "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors." in said
    assert INDEX not in said, "that it was told to"


def test_shards_that_come_one_by_one_replace_when_they_are_whole(olive: Hub) -> None:
    publish(olive, {SINGLE: weights(1), "README.md": CARD})
    files = shards(2, 3)
    names = sorted(files, reverse=True)  # the index first
    for name in names[:-1]:
        waiting = version_of(olive.push({name: files[name]}))
        assert waiting.state == Version.State.UPLOADING
        assert SINGLE in paths(waiting)
    assert Vector.objects.get().current.number == 1  # type: ignore[union-attr]
    last = publish(olive, {names[-1]: files[names[-1]]})
    assert paths(last) == {*files, "README.md"}


def test_an_index_that_comes_last_replaces(olive: Hub) -> None:
    publish(olive, {SINGLE: weights(1)})
    files = shards(2, 2)
    index = {INDEX: files.pop(INDEX)}
    publish(olive, files)  # as the single file is there, these are no part of the weights yet
    assert paths(publish(olive, index)) == {*files, INDEX}


def test_who_gives_up_on_shards_replaces_them_by_one_file(olive: Hub) -> None:
    files = shards(2, 2)
    olive.push({INDEX: files[INDEX], "model-00001-of-00002.safetensors": files[
        "model-00001-of-00002.safetensors"]})  # fmt: skip
    assert paths(publish(olive, {SINGLE: weights(3)})) == {SINGLE}


def test_a_push_of_both_is_for_its_sender_to_settle(olive: Hub) -> None:
    publish(olive, {SINGLE: weights(1)})
    both = {**shards(2, 2), SINGLE: weights(1)}
    lines = [olive.line(path, content) for path, content in both.items()]
    assert "loaders disagree on which one counts" in message(olive.commit(*lines), 400)
    assert Version.objects.count() == 1


def test_what_a_push_names_stays(olive: Hub) -> None:
    """Such as the first shards of what is still to come."""
    publish(olive, shards(1, 3))
    shard = "model-00001-of-00002.safetensors"
    version = publish(olive, {SINGLE: weights(2), shard: shards(3, 2)[shard]})
    assert paths(version) == {SINGLE, shard}


def test_weights_that_stay_remove_nothing(olive: Hub) -> None:
    files = {**shards(1, 2), "vae/model.safetensors": weights(5), "README.md": CARD}
    first = publish(olive, files)
    changed = shards(1, 2)
    changed.pop(INDEX)
    changed["model-00001-of-00002.safetensors"] = shards(4, 2)["model-00001-of-00002.safetensors"]
    assert paths(publish(olive, {"README.md": CARD + "\nMore.\n"})) == paths(first)
    assert paths(publish(olive, changed)) == paths(first), "a shard with other values"


def test_another_form_replaces_the_one_before(olive: Hub) -> None:
    state = make_state(torch.float32)
    delta = {name: 0.01 * torch.ones_like(value) for name, value in state.items()}
    first = publish(olive, {"delta.safetensors": save(delta), "README.md": CARD})
    second = publish(olive, {SINGLE: weights(2)})
    assert (first.form, second.form) == ("delta", "full")
    assert paths(second) == {SINGLE, "README.md"}


def adapter(seed: int) -> dict[str, str | bytes]:
    generator = torch.Generator().manual_seed(seed)
    state = make_state(torch.float32)
    name = next(key for key, value in state.items() if value.ndim == 2)
    rows, columns = state[name].shape
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    pair: dict[str, Any] = {
        f"{stem}.lora_A.weight": torch.randn(2, columns, generator=generator),
        f"{stem}.lora_B.weight": torch.randn(rows, 2, generator=generator),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "lab/tiny"}
    return {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": save(pair)}


def test_an_adapter_and_a_model_replace_each_other(olive: Hub) -> None:
    publish(olive, {SINGLE: weights(1), "README.md": CARD})
    second = publish(olive, adapter(2))
    assert (second.form, paths(second)) == ("lora", {*adapter(2), "README.md"})
    third = publish(olive, {SINGLE: weights(3)})
    assert (third.form, paths(third)) == ("full", {SINGLE, "README.md"})
