"""Two naming habits, one tensor."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectors.tensorfile.names import (
    VOCABULARY,
    has_layer_index,
    layer_of,
    match_names,
    shape_text,
)

BODY = ["embed_tokens.weight", *(f"layers.{i}.self_attn.q_proj.weight" for i in range(4))]


def test_equal_names_match_as_they_are() -> None:
    found, prefix = match_names([*BODY, "lm_head.weight"], BODY)
    assert found == {name: name for name in BODY}
    assert prefix == ""


@pytest.mark.parametrize("word", ["model.", "language_model.model.", "bert."])
def test_a_prefix_is_found_in_both_directions(word: str) -> None:
    longer = [word + name for name in BODY]
    assert match_names(BODY, longer) == (dict(zip(BODY, longer, strict=True)), f"+{word}")
    assert match_names(longer, BODY) == (dict(zip(longer, BODY, strict=True)), f"-{word}")


def test_what_only_one_side_has_stays_unmatched() -> None:
    source = [f"bert.{name}" for name in BODY] + ["classifier.weight", "classifier.bias"]
    found, prefix = match_names(source, [*BODY, "pooler.weight"])
    assert prefix == "-bert."
    assert set(source) - set(found) == {"classifier.weight", "classifier.bias"}
    assert set(found.values()) == set(BODY)


def test_a_vision_model_takes_the_vector_of_its_language_model() -> None:
    wanted = [f"language_model.model.{name}" for name in BODY] + ["vision.patch.weight"]
    found, prefix = match_names([f"model.{name}" for name in BODY], wanted)
    assert prefix == "+language_model."
    assert len(found) == len(BODY)


def test_nothing_in_common_matches_nothing() -> None:
    assert match_names(["a.weight", "b.weight"], ["c.bias"]) == ({}, "")
    assert match_names([], BODY) == ({}, "")


def test_half_a_word_is_no_prefix() -> None:
    """`ab.weight` is not `b.weight` behind the prefix `a`."""
    assert match_names(["b.weight"], ["ab.weight"]) == ({}, "")


def test_two_names_never_mean_one_tensor() -> None:
    source = [f"bert.{name}" for name in BODY] + [BODY[0]]
    found, _prefix = match_names(source, BODY)
    assert len(set(found.values())) == len(found)
    assert found[BODY[0]] == BODY[0]


def test_a_short_name_that_ends_every_other_costs_little() -> None:
    wanted = [f"m.layers.{i}.x{j}.weight" for i in range(40) for j in range(50)]
    names = ["weight", *(f"layers.{i}.x0.weight" for i in range(19)), *(f"q{i}" for i in range(40))]
    assert match_names(names, wanted)[1] == "+m."
    started = time.monotonic()
    match_names([*names, *(f"r{i}" for i in range(20_000))], wanted)
    assert time.monotonic() - started < 10


@given(
    st.lists(st.sampled_from(["a", "b.a", "a.b", "a.b.a", "b", "b.b.a", "a.a"]), unique=True),
    st.lists(st.sampled_from(["a", "b.a", "a.b", "a.b.a", "b", "b.b.a", "a.a"]), unique=True),
)
def test_a_match_is_always_one_to_one_and_inside(source: list[str], wanted: list[str]) -> None:
    found, _prefix = match_names(source, wanted)
    assert set(found) <= set(source)
    assert set(found.values()) <= set(wanted)
    assert len(set(found.values())) == len(found)
    assert len(found) >= len(set(source) & set(wanted))


@pytest.mark.parametrize(
    ("name", "key", "label"),
    [
        ("model.layers.12.mlp.up_proj.weight", 12, "12"),
        ("h.3.attn.c_attn.weight", 3, "3"),
        ("model.embed_tokens.weight", -1, "embed_tokens"),
        ("model.norm.weight", 10**6, "norm"),
        ("lm_head.weight", -1, "lm_head"),
    ],
)
def test_layers_sort_as_they_are_passed(name: str, key: int, label: str) -> None:
    assert layer_of(name) == (key, label)
    assert has_layer_index(name) == (0 <= key < 10**6)


def test_a_number_inside_a_word_is_no_layer() -> None:
    assert not has_layer_index("conv1.weight")
    assert not has_layer_index("layer_norm2.bias")


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("model.embed_tokens.weight", True),
        ("transformer.wte.weight", True),
        ("lm_head.weight", True),
        ("shared.weight", True),
        ("cls.predictions.bias", True),
        ("decoder.shared_expert.weight", False),
        ("model.layers.0.mlp.up_proj.weight", False),
    ],
)
def test_which_tensors_have_a_vocabulary(name: str, has: bool) -> None:
    assert bool(VOCABULARY.search(name)) == has


def test_shapes_are_written_for_people() -> None:
    assert shape_text((384, 1536)) == "384 × 1536"
    assert shape_text((7,)) == "7"
    assert shape_text(()) == "a scalar"
