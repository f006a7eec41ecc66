"""PEFT adapters: what we read of them is what peft itself merges."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save
from torch import nn
from transformers.pytorch_utils import Conv1D

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.lora import Adapter, LowRank, check_additive, read_adapter
from vectors.tensorfile.numbers import widen
from vectors.tensorfile.source import MemorySource

State = dict[str, torch.Tensor]
# peft tells what it saves and which patterns match nothing; both are meant here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Layer(nn.Module):
    """Two matrices and a norm; the names are those of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(5, 6)
        self.o_proj = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)


class Tiny(nn.Module):
    """One of each kind of layer that a LoRA can sit on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.c_attn = Conv1D(9, 5)
        self.square = Conv1D(5, 5)
        self.patches = nn.Conv2d(3, 4, (3, 2))
        self.audio = nn.Conv1d(3, 4, 5)
        self.head = nn.Linear(5, 3)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "o_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"q_proj": 3, r"layers\.1\.o_proj": 1},
        "alpha_pattern": {"layers.0.q_proj": 7, "^layers.1.*": 0.5},
    },
    "patterns and rslora": {
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"o_proj": 4},
        "alpha_pattern": {"o_proj": 9},
        "use_rslora": True,
    },
    "a suffix is no pattern": {
        "target_modules": ["q_proj"],
        "alpha_pattern": {"proj": 100, "ayers.0.q_proj": 100},
    },
    "Conv1D": {"target_modules": ["c_attn", "square"], "fan_in_fan_out": True},
    "embedding": {"target_modules": ["embed"]},
    "embedding among others": {"target_modules": ["embed", "q_proj"], "use_rslora": True},
    "conv2d": {"target_modules": ["patches"]},
    "conv1d": {"target_modules": ["audio"]},
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["head", "norm"]},
    "bias of the adapted": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "bias of all": {"target_modules": ["q_proj"], "bias": "all"},
    "gaussian start": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


def trained(model: nn.Module, **config: Any) -> peft.PeftModel:
    """``model`` with an adapter whose every trainable number is random, in double precision."""
    torch.manual_seed(3)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "lora_alpha": 5} | config))
    adapted = adapted.double()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    return adapted


def opened(adapted: peft.PeftModel, folder: Path) -> Adapter:
    """The adapter as peft saves it, as we read it."""
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    return read_adapter(config, Checkpoint.open_folder(folder, "adapter_model"))


def numbers(tensor: Tensor) -> torch.Tensor:
    raw = bytearray(tensor.nbytes)
    tensor.read_into(0, memoryview(raw))
    out = widen(np.frombuffer(raw, np.uint8), tensor.dtype, np.empty(tensor.count))
    return torch.from_numpy(out).reshape(tensor.shape)


def product(pair: LowRank) -> torch.Tensor:
    """ΔW by the words of LowRank's docstring."""
    left, right = numbers(pair.left), numbers(pair.right)
    if pair.transposed:
        left, right = left.reshape(pair.rank, -1).T, right.reshape(-1, pair.rank).T
    return (pair.scale * left.reshape(-1, pair.rank) @ right.reshape(pair.rank, -1)).reshape(
        pair.shape
    )


def merged_by_us(base: State, adapter: Adapter) -> State:
    assert set(adapter.low_rank) | set(adapter.replaced) <= set(base)
    changes = {name: base[name] + product(pair) for name, pair in adapter.low_rank.items()}
    return base | changes | {name: numbers(t) for name, t in adapter.replaced.items()}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_our_reading_is_pefts_own_merge(config: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Tiny().double()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = trained(model, **config)
    adapter = opened(adapted, tmp_path)
    wanted = adapted.merge_and_unload().state_dict()
    found = merged_by_us(base, adapter)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)
    assert any(not torch.equal(wanted[name], base[name]) for name in base)


@pytest.fixture(scope="module")
def language_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).double()


def test_an_adapted_embedding_of_transformers(language_model: nn.Module, tmp_path: Path) -> None:
    """peft saves a copy of the frozen embedding beside the LoRA; the LoRA is what counts."""
    base = {name: value.clone() for name, value in language_model.state_dict().items()}
    adapted = trained(language_model, target_modules=["embed_tokens", "v_proj"])
    adapter = opened(adapted, tmp_path)
    assert "model.embed_tokens.weight" in adapter.low_rank
    copies = [name for name in adapter.replaced if name not in base]
    assert copies == ["model.embed_tokens.base_layer.weight"]
    adapter.replaced.clear()
    found = merged_by_us(base, adapter)
    for name, value in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_half_precision_factors_are_read_exactly() -> None:
    a, b = torch.randn(2, 5).bfloat16(), torch.randn(6, 2).half()
    adapter = read(lora(a, b))
    pair = adapter.low_rank["layers.0.q_proj.weight"]
    torch.testing.assert_close(product(pair), 2.5 * b.double() @ a.double(), rtol=1e-15, atol=0)


# Adapters by hand

KEY = "base_model.model.layers.0.q_proj."
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 5}


def lora(a: torch.Tensor | None, b: torch.Tensor | None, **more: torch.Tensor) -> State:
    """The state of an adapter of q_proj; ``more`` by what follows its name."""
    both = {"lora_A.weight": a, "lora_B.weight": b, **more}
    return {KEY + name: value for name, value in both.items() if value is not None}


def read(state: State, **config: Any) -> Adapter:
    copies = {name: value.clone() for name, value in state.items()}
    source = MemorySource(save(copies), "adapter_model.safetensors")
    checkpoint = Checkpoint.open({"adapter_model.safetensors": source}, "adapter_model")
    return read_adapter(CONFIG | config, checkpoint)


def refusal(state: State, **config: Any) -> str:
    with pytest.raises(TensorFileError) as caught:
        read(state, **config)
    return str(caught.value)


A, B = torch.ones(2, 5), torch.ones(6, 2)


def test_a_rank_that_is_not_the_configs_is_named() -> None:
    assert refusal(lora(A, B), r=8) == (
        "`layers.0.q_proj` has rank 2 in the file and 8 in adapter_config.json."
    )
    assert "rank 2 in the file and 3" in refusal(lora(A, B), rank_pattern={"q_proj": 3})
    read(lora(A, B), r=8, rank_pattern={"q_proj": 2})


def test_a_and_b_must_fit_each_other() -> None:
    assert "A is 2 × 5, B is 6 × 3" in refusal(lora(A, torch.ones(6, 3)))
    assert "A is 5, B is 6 × 2" in refusal(lora(torch.ones(5), B))
    assert "A is 2 × 5, B is 6 × 2 × 3" in refusal(lora(A, torch.ones(6, 2, 3)))
    assert "A is 0 × 5, B is 6 × 0" in refusal(lora(torch.ones(0, 5), torch.ones(6, 0)), r=0)


@pytest.mark.parametrize(("a", "b"), [(A, None), (None, B)])
def test_half_a_pair_is_named(a: torch.Tensor | None, b: torch.Tensor | None) -> None:
    assert refusal(lora(a, b)).startswith("The LoRA of `layers.0.q_proj` needs one A and one B")


def test_a_pair_of_two_kinds_is_refused() -> None:
    mixed = lora(A, B, lora_embedding_A=torch.ones(2, 5))
    assert "needs one A and one B" in refusal(mixed)


def test_integer_factors_are_refused() -> None:
    assert f"`{KEY}lora_A.weight` is I32" in refusal(lora(A.int(), B))


def test_what_is_said_twice_is_refused() -> None:
    bare = "layers.0.q_proj."
    assert f"`{bare}lora_A.weight`" in refusal(lora(A, B) | {f"{bare}lora_A.weight": A + 1})
    assert f"`{KEY}weight`" in refusal(lora(A, B) | {f"{KEY}weight": torch.ones(6, 5)})
    both = {"base_model.model.head.weight": A, "base_model.model.head.modules_to_save.weight": B}
    assert "says twice" in refusal(lora(A, B) | both)


def test_nothing_to_add_is_refused() -> None:
    assert refusal({"base_model.model.head.lora_X.weight": A}).startswith("`base_model.model.head")


@pytest.mark.parametrize(
    "alpha", [None, "16", True, [16], float("nan"), float("inf"), 10**400, -(10**400)]
)
def test_an_alpha_that_is_no_number_is_refused(alpha: Any) -> None:
    assert refusal(lora(A, B), lora_alpha=alpha) == "adapter_config.json says no lora_alpha."
    assert "lora_alpha" in refusal(lora(A, B), alpha_pattern={"q_proj": alpha or "x"})


@pytest.mark.parametrize("rank", ["8", "x", [8], {}, 2.5, True])
def test_a_rank_that_is_no_number_is_refused(rank: Any) -> None:
    assert "`layers.0.q_proj`" in refusal(lora(A, B), r=rank)
    assert "`layers.0.q_proj`" in refusal(lora(A, B), rank_pattern={"q_proj": rank})


@pytest.mark.parametrize("patterns", [["q_proj"], "q_proj", 3])
def test_patterns_that_are_no_mapping_are_refused(patterns: Any) -> None:
    assert "`rank_pattern`" in refusal(lora(A, B), rank_pattern=patterns)
    assert "`alpha_pattern`" in refusal(lora(A, B), alpha_pattern=patterns)


def test_a_broken_pattern_matches_nothing() -> None:
    pair = read(lora(A, B), alpha_pattern={"(": 99, "q_proj": 8}).low_rank["layers.0.q_proj.weight"]
    assert pair.scale == 4


@pytest.mark.parametrize("pattern", [r"(\w|\w\w)+[!@]", "a" * 2_000_000])
def test_patterns_that_would_take_years_are_refused(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectors.tensorfile.lora._MATCH_SECONDS", 0.2)
    state = {f"{'a' * 60}.{kind}.weight": m for kind, m in (("lora_A", A), ("lora_B", B))}
    started = time.monotonic()
    assert "`rank_pattern`" in refusal(state, rank_pattern={pattern: 2})
    assert "`alpha_pattern`" in refusal(state, alpha_pattern={pattern: 2})
    assert time.monotonic() - started < 10


def test_a_pattern_nested_beyond_measure_matches_nothing() -> None:
    assert read(lora(A, B), rank_pattern={"(" * 4000 + ")" * 4000: 3}).low_rank


# Kinds that do not add


def test_what_a_configuration_says_can_be_said_again() -> None:
    for config in ({"peft_type": "\ud800" * 1000}, {"init_lora_weights": "pissa\ud800"}):
        said = refusal(lora(A, B), **config)
        assert said.encode()
        assert len(said) < 1000


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (peft.IA3Config(), "IA3"),
        (peft.LoHaConfig(), "LOHA"),
        (peft.LoKrConfig(), "LOKR"),
        (peft.AdaLoraConfig(total_step=10), "ADALORA"),
        (peft.PromptTuningConfig(), "PROMPT_TUNING"),
        (peft.PrefixTuningConfig(), "PREFIX_TUNING"),
        (peft.OFTConfig(), "OFT"),
        (peft.VeraConfig(), "VERA"),
        (peft.LNTuningConfig(), "LN_TUNING"),
        (peft.LoraConfig(use_dora=True), "DoRA (`use_dora`)"),
        (peft.LoraConfig(use_qalora=True), "QA-LoRA (`use_qalora`)"),
        (peft.LoraConfig(lora_bias=True), "a bias of its own (`lora_bias`)"),
        (peft.LoraConfig(layer_replication=[(0, 2), (1, 3)]), "layer replication"),
        (peft.LoraConfig(trainable_token_indices=[1, 2]), "trainable token indices"),
        (peft.LoraConfig(alora_invocation_tokens=[1]), "activated LoRA"),
        (peft.LoraConfig(target_parameters=["experts.up"]), "LoRA on bare parameters"),
        (peft.LoraConfig(init_lora_weights="pissa"), "pissa"),
        (peft.LoraConfig(init_lora_weights="pissa_niter_16"), "pissa_niter_16"),
        (peft.LoraConfig(init_lora_weights="olora"), "olora"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kind_that_does_not_add_is_refused_by_name(config: peft.PeftConfig, named: str) -> None:
    """The configuration as peft itself writes it."""
    written = json.loads(json.dumps(config.to_dict(), default=list))
    with pytest.raises(TensorFileError) as caught:
        check_additive(written)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"kasa_config": {"beta": 1}},
        {"use_bdlora": {"nblocks": 2}},
        {"arrow_config": {"top_k": 3}},
        {"monteclora_config": {"x": 1}},
        {"megatron_config": {"x": 1}},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "lora_ga"},
        {"init_lora_weights": "PiSSA"},
        {"peft_type": None},
    ],
    ids=str,
)
def test_rarer_kinds_are_refused_too(config: dict[str, Any]) -> None:
    with pytest.raises(TensorFileError):
        check_additive(CONFIG | config)


def test_a_plain_configuration_of_peft_passes() -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights="orthogonal", r=4)
    check_additive(json.loads(json.dumps(config.to_dict(), default=list)))


def test_a_dora_is_known_by_its_tensors_too(tmp_path: Path) -> None:
    """A configuration that hides what the file is."""
    adapted = trained(Tiny(), target_modules=["q_proj"], use_dora=True)
    adapted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"use_dora": False}
    with pytest.raises(TensorFileError, match=r"is a DoRA \(`.*q_proj\.lora_magnitude_vector"):
        read_adapter(config, Checkpoint.open_folder(tmp_path, "adapter_model"))
