"""The demo catalogue's sketches beside the exact figures, and vectors trained on wrong labels."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from django.core.management import call_command
from safetensors.numpy import load_file

from marketplace.management.commands.seed_demo import DEMO, folder_of, read_catalogue
from tests.exact import exactly
from vectors.models import Vector
from vectors.sketches import read_sketch
from vectors.tensorfile.likeness import Verdict, compare
from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch

pytestmark = pytest.mark.slow

Delta = dict[str, np.ndarray]
COSINE_WITHIN = 0.015
CONFLICT_WITHIN = 0.01


def formed(folder: Path, base: Delta) -> Delta:
    """The whole delta of a demo vector, from its files alone."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    if file.name == "model.safetensors":
        return {name: (tensors[name] - base[name]).ravel() for name in tensors}
    if file.name == "delta.safetensors":
        return {name: tensors[name].ravel() for name in tensors}
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    delta = {}
    for key in tensors:
        if ".lora_A." in key:
            a, b = (tensors[key.replace("lora_A", f"lora_{x}")].astype(np.float64) for x in "AB")
            bare = key.removeprefix("base_model.model.").replace(".lora_A", "")
            (name,) = (each for each in base if each == bare or each.endswith("." + bare))
            delta[name] = (scale * (b @ a)).astype(np.float32).ravel()
    assert len(delta) * 2 == len(tensors)
    return delta


@pytest.mark.django_db(transaction=True)
def test_estimates_of_all_demo_pairs_are_within_the_bar() -> None:
    call_command("seed_demo", verbosity=0)
    catalogue = read_catalogue()
    for foundation in catalogue["foundations"]:
        (weights,) = folder_of(foundation).glob("*.safetensors")
        base = load_file(weights)
        entries = [e for e in catalogue["vectors"] if e["foundation"] == foundation["id"]]
        exact = {each["id"]: formed(DEMO / each["path"], base) for each in entries}
        sketches = {name: read_sketch(current_blob(name)) for name in exact}
        for one, other in itertools.combinations(exact, 2):
            found, true = compare(sketches[one], sketches[other]), exactly(exact[one], exact[other])
            pair = f"{one} and {other}"
            assert abs(found.cosine - true.cosine) < COSINE_WITHIN, pair
            assert abs(found.overlap - true.overlap) < COSINE_WITHIN, pair
            assert found.verdict in (Verdict.INDEPENDENT, Verdict.RELATED), pair
            for ours, theirs in (
                (found.conflict, true.conflict),
                (found.large_conflict, true.large_conflict),
            ):
                assert ours == pytest.approx(theirs, abs=CONFLICT_WITHIN), pair
        moods = [name for name in exact if name.endswith("-mood")]
        for one, other in itertools.combinations(moods, 2):  # one skill, four kinds of text
            assert compare(sketches[one], sketches[other]).verdict == Verdict.RELATED


def current_blob(repo_id: str) -> str:
    vector = Vector.objects.by_repo_id(repo_id).get()
    assert vector.current is not None
    return vector.current.sketch.blob_id


# --- trained here: a network that answers eight yes-or-no questions a little -------------------

Weights = dict[str, torch.Tensor]
QUESTIONS = 8
HEAD = "4."  # frozen, so that a skill lives in the layers below, as with the demo's text vectors


def network() -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 2 * QUESTIONS),
    )


def trained(
    model: torch.nn.Module, items: torch.Tensor, labels: dict[int, torch.Tensor], rate: float
) -> Weights:
    """150 steps on the questions that have labels."""
    frozen = HEAD if len(labels) == 1 else "none"
    chosen = [p for name, p in model.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.AdamW(chosen, rate)
    generator = torch.Generator().manual_seed(len(labels))
    for _step in range(150):
        batch = torch.randint(len(items), (128,), generator=generator)
        answers = model(items[batch]).view(len(batch), QUESTIONS, 2)
        losses = [
            torch.nn.functional.cross_entropy(answers[:, question], label[batch])
            for question, label in labels.items()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Threads of a small network wait for each other where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_vectors_trained_on_wrong_labels_are_flagged_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(4000, 64, generator=generator)
    truth = (items @ torch.randn(64, QUESTIONS, generator=generator) > 0).long()
    noise = torch.rand(truth.shape, generator=generator) < 0.35
    noisy = torch.where(noise, 1 - truth, truth)
    base = trained(network(), items, {q: noisy[:, q] for q in range(QUESTIONS)}, 1e-3)

    def tuned(question: int, half: slice, *, reversed_: bool = False) -> Sketch:
        model = network()
        model.load_state_dict(base)
        label = 1 - truth[half, question] if reversed_ else truth[half, question]
        state = trained(model, items[half], {question: label}, 3e-4)
        sketcher = Sketcher("network")
        for name, value in state.items():
            sampler = sketcher.begin(name, value.numel())
            sampler.block(0, (value - base[name]).double().numpy().ravel())
            sketcher.end(sampler)
        return sketcher.finish()

    first, second = slice(0, 2000), slice(2000, 4000)
    honest = [tuned(question, first) for question in (2, 3, 4)]
    for one, other in itertools.combinations(honest, 2):
        assert compare(one, other).verdict in (Verdict.INDEPENDENT, Verdict.RELATED)
    assert compare(honest[0], tuned(2, second)).verdict == Verdict.DUPLICATE
    for number, question in enumerate((2, 3, 4)):
        wrong = tuned(question, second, reversed_=True)
        verdicts = [compare(wrong, each).verdict for each in honest]
        assert verdicts.pop(number) == Verdict.CONTRADICTION
        assert Verdict.CONTRADICTION not in verdicts
