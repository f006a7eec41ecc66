"""A sum of LoRAs as one LoRA: peft itself loads it, and it is the equipped model."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load
from torch import nn
from transformers.pytorch_utils import Conv1D

from merging.engine.align import TermSource
from merging.engine.errors import RecipeError
from merging.engine.outputs import make_output, write_output
from merging.engine.recipe import make_recipe
from merging.engine.run import Equipment, equip, stream
from tests.engine.models import State, foundation, lora, put_on, save, tensors_of, tuned, vector
from vectors.tensorfile.checkpoint import Checkpoint, read_json
from vectors.tensorfile.lora import read_adapter
from vectors.tensorfile.source import FileSource

NUMBER = count()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
QUIET = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(12, 12)
        self.o_proj = nn.Linear(12, 12, bias=False)
        self.input_norm = nn.LayerNorm(12)


class Small(nn.Module):
    """Layers of every kind that PEFT adapts, and names that are easily mistaken."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(30, 12)
        self.conv = nn.Conv2d(3, 8, kernel_size=3)
        self.layers = nn.ModuleList([Block(), Block()])
        self.proj = nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(30, 12)
        self.c_attn = Conv1D(36, 12)
        self.c_proj = Conv1D(12, 12)  # square: only its namesake tells that it is transposed
        self.first = nn.ModuleDict({"c_proj": Conv1D(12, 48)})


def state_of(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def trained(kind: type[nn.Module], base: State, folder: Path, seed: int, **config: Any) -> Path:
    """An adapter as peft saves it, every trained number random."""
    torch.manual_seed(seed)
    model = kind()
    model.load_state_dict(base)
    adapted = get_peft_model(model, LoraConfig(**config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(str(folder))
    return folder


def opened(folder: Path) -> TermSource:
    config = read_json(FileSource(folder / "adapter_config.json"))
    adapter = read_adapter(config, Checkpoint.open_folder(folder, "adapter_model"))
    return TermSource(folder.name, folder.name, "lora", adapter)


def loaded_by_peft(kind: type[nn.Module], base: State, folder: Path) -> State:
    model = kind()
    model.load_state_dict(base)
    return state_of(PeftModel.from_pretrained(model, folder).merge_and_unload())


def assert_close(found: State, expected: State, base: State) -> None:
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5, msg=name)
    assert any(not expected[name].equal(base[name]) for name in base)


CONFIGS: list[dict[str, Any]] = [
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "proj"]},
    {
        "r": 3,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": ["q_proj", "o_proj", "embed_tokens", "conv"],
        "rank_pattern": {"layers.1.q_proj": 7},
        "modules_to_save": ["head"],
    },
    {"r": 2, "lora_alpha": 2, "target_modules": ["o_proj", "q_proj"], "bias": "lora_only"},
    {"r": 2, "lora_alpha": 4, "target_modules": ["layers.0.q_proj"], "modules_to_save": ["norm"]},
]


@pytest.mark.parametrize(
    ("chosen", "weights", "parameters"),
    [
        ([0], ["1"], {}),
        ([0, 1], ["0.7", "-0.4"], {}),
        ([1, 2], ["0.5", "0.25"], {"lambda": 0.6}),
        ([0, 1, 2], ["1", "2", "1"], {"normalize": True}),
        ([3], ["0.5"], {}),
    ],
)
def test_peft_loads_the_sum_as_the_equipped_model(
    tmp_path: Path, chosen: list[int], weights: list[str], parameters: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    base = state_of(Small())
    on = save(base, tmp_path / "base")
    terms = [
        (opened(trained(Small, base, tmp_path / f"lora{at}", at, **CONFIGS[at])), weight)
        for at, weight in zip(chosen, weights, strict=True)
    ]
    equipment = put_on(on, on, terms, parameters=parameters)
    output = make_output(equipment, "lora", base="the base")
    write_output(equipment, output, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert_close(loaded_by_peft(Small, base, tmp_path / "out"), tensors_of(equipment), base)
    again = put_on(on, on, [(opened(tmp_path / "out"), "1")])
    assert_close(tensors_of(again), tensors_of(equipment), base)


def test_gpt2_layers_and_embeddings_stay_transposed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = state_of(Transposed())
    on = save(base, tmp_path / "base")
    both: dict[str, Any] = {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj", "wte"]}
    terms = [
        (opened(trained(Transposed, base, tmp_path / f"l{rank}", rank, r=rank, **both)), weight)
        for rank, weight in ((2, "0.5"), (3, "-1"))
    ]
    equipment = put_on(on, on, terms)
    write_output(equipment, make_output(equipment, "lora"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 5
    assert config["fan_in_fan_out"] is True
    found = loaded_by_peft(Transposed, base, tmp_path / "out")
    assert_close(found, tensors_of(equipment), base)


def test_modules_are_named_so_that_only_they_are_meant(tmp_path: Path) -> None:
    base = state_of(Small())
    on = save(base, tmp_path / "base")
    first = trained(Small, base, tmp_path / "a", 1, r=2, target_modules=["q_proj", "proj"])
    second = trained(
        Small, base, tmp_path / "b", 2, r=3, target_modules=["layers.1.q_proj", "layers.0.o_proj"]
    )
    equipment = put_on(on, on, [(opened(first), "1"), (opened(second), "1")])
    config = json.loads(make_output(equipment, "lora").files["adapter_config.json"])
    assert sorted(config["target_modules"]) == ["layers.0.o_proj", "proj", "q_proj"]
    assert (config["r"], config["rank_pattern"]) == (
        2,
        {r"^layers\.0\.o_proj": 3, r"^layers\.1\.q_proj": 5},
    )
    assert config["alpha_pattern"] == config["rank_pattern"]


def test_a_rank_pattern_does_not_mean_a_module_of_a_longer_name(tmp_path: Path) -> None:
    """`proj` has rank 6 and `inner.proj` rank 1: peft's patterns match by the end of a name."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(8, 8)
            self.inner = nn.ModuleDict({"proj": nn.Linear(8, 8), "q": nn.Linear(8, 8)})

    base = state_of(Nested())
    on = save(base, tmp_path / "base")
    one = trained(Nested, base, tmp_path / "a", 1, r=1, target_modules=["inner.proj", "q"])
    six = trained(
        Nested, base, tmp_path / "b", 2, r=6, target_modules="proj", rank_pattern={"^proj": 6}
    )
    equipment = put_on(on, on, [(opened(one), "1"), (opened(six), "1")])
    write_output(equipment, make_output(equipment, "lora"), tmp_path / "out")
    found = loaded_by_peft(Nested, base, tmp_path / "out")
    assert_close(found, tensors_of(equipment), base)


def factors(seed: int, rank: int, names: tuple[str, ...] = ("layers.0",)) -> State:
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name in names:
        state[f"{name}.lora_A.weight"] = torch.randn(rank, 53, generator=draw)
        state[f"{name}.lora_B.weight"] = torch.randn(37, rank, generator=draw)
    return state


def weights_of(equipment: Equipment, **kwargs: Any) -> State:
    (file,) = make_output(equipment, "lora", **kwargs).model.files.values()
    whole = b"".join(stream(file))
    assert len(whole) == file.size
    assert b"".join(stream(file, 5000, 5321)) == whole[5000:5321]
    return load(whole)


def changes_of(equipment: Equipment, **kwargs: Any) -> State:
    """ΔW of every module of the LoRA, in float64."""
    found = weights_of(equipment, **kwargs)
    prefix, a = "base_model.model.", ".lora_A.weight"
    return {
        key[len(prefix) : -len(a)]: found[key.replace("lora_A", "lora_B")].double()
        @ found[key].double()
        for key in found
        if key.endswith(a)
    }


@QUIET
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.decimals(min_value=-2, max_value=2, places=2).filter(bool),
            st.integers(1, 32),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([{}, {"lambda": -0.5}]),
)
def test_factors_hold_weights_and_scales(
    tmp_path: Path, drawn: list[tuple[int, Any, int]], parameters: dict[str, Any]
) -> None:
    folder = tmp_path / str(next(NUMBER))
    on = save(foundation(torch.float32), folder / "base")
    terms, expected = [], torch.zeros(37, 53, dtype=torch.float64)
    for seed, (rank, weight, alpha) in enumerate(drawn):
        state = factors(seed, rank)
        terms.append((lora(state, folder / f"l{seed}", r=rank, lora_alpha=alpha), str(weight)))
        b, a = state["layers.0.lora_B.weight"].double(), state["layers.0.lora_A.weight"].double()
        expected += float(weight) * alpha / rank * (b @ a)
    equipment = put_on(on, on, terms, parameters=parameters)
    found = changes_of(equipment)
    assert list(found) == ["layers.0"]
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        found["layers.0"], expected * parameters.get("lambda", 1.0), atol=1e-5 * scale, rtol=0
    )
    assert weights_of(equipment)["base_model.model.layers.0.lora_A.weight"].shape[0] == sum(
        rank for rank, _weight, _alpha in drawn
    )


def test_rules_and_schedules_are_honoured(tmp_path: Path) -> None:
    on = save(foundation(torch.float32), tmp_path / "base")
    names = ("layers.0", "layers.1", "layers.2")
    source = lora(factors(1, 2, names), tmp_path / "l", r=2, lora_alpha=2)
    other = lora(factors(2, 3, names), tmp_path / "m", r=3, lora_alpha=3)
    equipment = put_on(
        on,
        on,
        [(source, "1"), (other, "1")],
        rules=["skip layers.0.weight of l", "merge layers.1.weight of m x 0.25", "keep layers.2.*"],
    )
    found = changes_of(equipment)
    one, two = (
        {name: state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"] for name in names}
        for state in (factors(1, 2, names), factors(2, 3, names))
    )
    assert sorted(found) == ["layers.0", "layers.1"]
    torch.testing.assert_close(found["layers.0"].float(), two["layers.0"])
    torch.testing.assert_close(
        found["layers.1"].float(), one["layers.1"] + 0.25 * two["layers.1"], atol=1e-5, rtol=1e-5
    )


def test_a_weight_that_is_zero_in_a_layer_adds_no_rank(tmp_path: Path) -> None:
    on = save(foundation(torch.float32), tmp_path / "base")
    names = ("layers.0", "layers.1", "layers.2")
    source = lora(factors(1, 2, names), tmp_path / "l", r=2, lora_alpha=2)
    recipe = make_recipe(
        foundation="base", target="base", terms=[("l", "1", {"weight": [0, 0.5, 1]})]
    )
    equipment = equip(recipe, target=on, foundation=on, terms=[source])
    found = changes_of(equipment)
    state = factors(1, 2, names)
    assert sorted(found) == ["layers.1", "layers.2"]
    half = state["layers.1.lora_B.weight"] @ state["layers.1.lora_A.weight"] / 2
    torch.testing.assert_close(found["layers.1"].float(), half)


def test_weights_that_cancel_in_a_layer_are_not_normalised_there(tmp_path: Path) -> None:
    """0.1 + 0.2 − 0.3 is not 0 in doubles: the engine divides by nothing then, and so does this."""
    on = save(foundation(torch.float32), tmp_path / "base")
    sources = [lora(factors(n, 2), tmp_path / f"l{n}", r=2, lora_alpha=2) for n in range(3)]
    weights = [("l0", [0.1, 1]), ("l1", [0.2, 1]), ("l2", [-0.3, 1])]
    found = []
    for normalize in (False, True):
        recipe = make_recipe(
            foundation="base",
            target="base",
            terms=[(ref, "1", {"weight": weight}) for ref, weight in weights],
            parameters={"normalize": normalize},
        )
        equipment = equip(recipe, target=on, foundation=on, terms=sources)
        found.append(changes_of(equipment)["layers.0"])
    assert found[0].equal(found[1])


def test_an_average_of_loras_on_their_foundation_is_a_sum(tmp_path: Path) -> None:
    on = save(foundation(torch.float32), tmp_path / "base")
    terms = [
        (lora(factors(n, 2), tmp_path / f"l{n}", r=2, lora_alpha=2), f"{n + 1}") for n in range(2)
    ]
    equipment = put_on(on, on, terms, method="linear")
    difference = (
        tensors_of(equipment)["layers.0.weight"] - foundation(torch.float32)["layers.0.weight"]
    )
    torch.testing.assert_close(
        changes_of(equipment)["layers.0"].float(), difference, atol=1e-5, rtol=1e-5
    )
    lopsided = put_on(on, on, terms, method="linear", parameters={"normalize": False})
    with pytest.raises(RecipeError, match=r"`\S+` is no sum of LoRAs"):
        make_output(lopsided, "lora")


def test_a_longer_vocabulary_gets_nothing_in_its_last_rows(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    longer = {**base, "embed.weight": torch.randn(44, 16)}
    state = {
        "embed.lora_embedding_A": torch.randn(2, 40),
        "embed.lora_embedding_B": torch.randn(16, 2),
    }
    opened_base, on = save(base, tmp_path / "base"), save(longer, tmp_path / "on")
    source = lora(state, tmp_path / "l", r=2, lora_alpha=2)
    equipment = put_on(on, opened_base, [(source, "1")], target_ref="on")
    found = weights_of(equipment)
    a = found["base_model.model.embed.lora_embedding_A"]
    b = found["base_model.model.embed.lora_embedding_B"]
    assert a.shape == (2, 44)
    torch.testing.assert_close(
        longer["embed.weight"] + (b @ a).T, tensors_of(equipment)["embed.weight"]
    )


def test_names_are_those_the_loras_were_trained_with(tmp_path: Path) -> None:
    """The base is stored without the prefix that the model class has."""
    base = {**foundation(torch.float32), "norm.weight": torch.ones(53)}
    on = save(base, tmp_path / "base")
    state = {f"transformer.{name}": value for name, value in factors(1, 2).items()}
    state["transformer.norm.weight"] = torch.zeros(53)
    source = lora(state, tmp_path / "l", r=2, lora_alpha=2)
    equipment = put_on(on, on, [(source, "1")])
    assert list(changes_of(equipment)) == ["transformer.layers.0"]
    found = weights_of(equipment)
    assert not found["base_model.model.transformer.norm.weight"].any()
    assert found["base_model.model.transformer.norm.bias"].equal(base["norm.bias"])
    config = json.loads(make_output(equipment, "lora").files["adapter_config.json"])
    assert config["target_modules"] == ["transformer.layers.0"]


@QUIET
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 25))
def test_cut_to_a_rank_the_error_is_the_one_stated(
    tmp_path: Path, ranks: list[int], rank: int
) -> None:
    folder = tmp_path / str(next(NUMBER))
    on = save(foundation(torch.float32), folder / "base")
    terms = [
        (lora(factors(n, r), folder / f"l{n}", r=r, lora_alpha=r), "0.5")
        for n, r in enumerate(ranks)
    ]
    equipment = put_on(on, on, terms)
    exact = changes_of(equipment)["layers.0"]
    output = make_output(equipment, "lora", rank=rank)
    found = changes_of(equipment, rank=rank)["layers.0"]
    stated = json.loads(output.files["errors.json"])
    error = float((found - exact).norm() / exact.norm())
    assert abs(stated["relative_error"] - error) < 1e-6
    assert stated["tensors"]["layers.0.weight"]["rank"] == min(rank, sum(ranks))
    singular = torch.linalg.svdvals(exact)
    best = float(singular[rank:].norm() / singular.norm())
    assert abs(error - best) < 1e-6


def test_a_sum_that_is_none_is_told_what_to_do(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    on = save(base, tmp_path / "base")
    source = lora(factors(1, 2), tmp_path / "l", r=2, lora_alpha=2)
    full = vector(tuned(base, 1), tmp_path / "f")
    with pytest.raises(RecipeError, match="Say a rank"):
        make_output(put_on(on, on, [(source, "1"), (full, "0.5")]), "lora")
    with pytest.raises(RecipeError, match=r"`layers.1.weight` is no sum"):
        make_output(put_on(on, on, [(source, "1")], rules=["drop layers.1.weight"]), "lora")
    with pytest.raises(RecipeError, match="nothing to keep"):
        make_output(put_on(on, on, [(source, "1")], rules=["skip * of l"]), "lora")
    with pytest.raises(RecipeError, match="belongs to a LoRA"):
        make_output(put_on(on, on, [(source, "1")]), "delta", rank=3)
    with pytest.raises(RecipeError, match="model, delta, lora, not as zip"):
        make_output(put_on(on, on, [(source, "1")]), "zip")
    bare = lora({"scale": torch.tensor(2.0), **factors(1, 2)}, tmp_path / "s", r=2, lora_alpha=2)
    with pytest.raises(RecipeError, match="cannot carry the change in `scale`"):
        make_output(put_on(on, on, [(bare, "1")]), "lora")


def test_what_is_no_sum_can_still_be_cut_down(tmp_path: Path) -> None:
    on = save(foundation(torch.float32), tmp_path / "base")
    terms = [(lora(factors(n, 2), tmp_path / f"l{n}", r=2, lora_alpha=2), "1") for n in range(2)]
    equipment = put_on(on, on, terms, method="ties", parameters={"density": 0.5})
    with pytest.raises(RecipeError, match="Say a rank"):
        make_output(equipment, "lora")
    curved = put_on(on, on, terms, method="multislerp")
    with pytest.raises(RecipeError, match=r"`layers.0.weight` is no sum"):
        make_output(curved, "lora")
    for each in (equipment, curved):
        base = foundation(torch.float32)["layers.0.weight"]
        change = tensors_of(each)["layers.0.weight"] - base
        found = changes_of(each, rank=37)["layers.0"].float()
        torch.testing.assert_close(found, change, atol=1e-4, rtol=1e-4)


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    on = save(foundation(torch.bfloat16), tmp_path / "base")
    terms = [(lora(factors(n, 4), tmp_path / f"l{n}", r=4, lora_alpha=8), "0.3") for n in range(2)]
    for asked in ({}, {"rank": 3}, {"energy": 0.8}):
        one, two = (weights_of(put_on(on, on, terms), **asked) for _turn in range(2))
        assert all(one[name].equal(two[name]) for name in one)
