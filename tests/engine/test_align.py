"""Every tensor of target, foundation and terms ends in one case, and the report says which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merging.engine.errors import MergeError
from merging.engine.run import Equipment
from tests.engine.models import State, lora, put_on, same, save, tensors_of, vector

LAYERS = ["layers.0.up.weight", "layers.0.down.weight", "layers.1.up.weight"]


def state(*extra: str, seed: int = 0, prefix: str = "", rows: int = 8) -> State:
    """Three layers and an embedding of ``rows``, and more matrices by name."""
    generator = torch.Generator().manual_seed(seed)
    names = [*LAYERS, *extra]
    found = {prefix + name: torch.randn(4, 3, generator=generator) for name in names}
    return found | {f"{prefix}embed.weight": torch.randn(rows, 3, generator=generator)}


def half_way(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    wide = base.double()
    return (wide + 0.5 * (tuned.double() - wide)).to(base.dtype)


def assert_complete(equipment: Equipment, target: State) -> None:
    """Each tensor of the target is in exactly one case, and in the file, with its shape."""
    cases = equipment.report.cases
    listed = [name for names in cases.values() for name in names]
    assert sorted(listed) == sorted(target)
    found = tensors_of(equipment)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in target.items()
    }
    json.dumps(equipment.report.as_data())


def test_each_case_of_the_report(tmp_path: Path) -> None:
    base = state("norm.weight") | {"positions": torch.arange(4), "flags": torch.tensor([True])}
    target = base | {"reward.weight": torch.ones(1, 3), "none.weight": torch.zeros(0, 3)}
    delta = {LAYERS[0]: torch.ones(4, 3)}
    fine = {name: value for name, value in state("norm.weight", seed=1).items() if "embed" in name}
    opened, on = save(base, tmp_path / "base"), save(target, tmp_path / "t")
    terms = [
        (vector(delta, tmp_path / "d", "delta"), "0.5"),
        (vector(fine | {"score.weight": torch.ones(2, 3)}, tmp_path / "f"), "0.5"),
    ]
    equipment = put_on(on, opened, terms, target_ref="t")
    assert_complete(equipment, target)
    report = equipment.report
    assert sorted(report.cases["merged"]) == sorted([LAYERS[0], "embed.weight"])
    assert sorted(report.cases["untouched"]) == sorted([*LAYERS[1:], "norm.weight"])
    assert sorted(report.cases["copied"]) == ["flags", "none.weight", "positions"]
    assert report.cases["kept"] == ["reward.weight"]
    assert report.dropped == {"f": ["score.weight"]}
    assert sorted(report.absent["f"]) == sorted([*LAYERS, "norm.weight"])
    assert "d" not in report.absent, "a delta says nothing of what it does not change"
    assert (report.renamed, report.shared_rows, report.collapsed_to) == ({}, [], None)
    found = tensors_of(equipment)
    for name in (*report.cases["untouched"], *report.cases["copied"], "reward.weight"):
        assert same(found[name], target[name]), name
    assert same(found["embed.weight"], half_way(base["embed.weight"], fine["embed.weight"]))
    assert same(found[LAYERS[0]], base[LAYERS[0]] + 0.5)


def test_a_head_of_the_target_is_kept_and_one_of_the_term_dropped(tmp_path: Path) -> None:
    """The peer drops a value head without a word."""
    base = state()
    fine = state("score.weight", seed=1)
    target = state("v_head.weight", seed=2)
    opened, on = save(base, tmp_path / "base"), save(target, tmp_path / "t")
    equipment = put_on(on, opened, [(vector(fine, tmp_path / "a"), "0.5")], target_ref="t")
    assert_complete(equipment, target)
    assert equipment.report.cases["kept"] == ["v_head.weight"]
    assert equipment.report.dropped == {"a": ["score.weight"]}
    assert same(tensors_of(equipment)["v_head.weight"], target["v_head.weight"])


@pytest.mark.parametrize(
    ("base_rows", "term_rows", "target_rows"), [(8, 10, 8), (8, 6, 9), (9, 9, 7)]
)
def test_shared_vocabulary_rows_are_merged_and_the_rest_is_the_targets(
    tmp_path: Path, base_rows: int, term_rows: int, target_rows: int
) -> None:
    base, fine = state(rows=base_rows), state(rows=term_rows, seed=1)
    target = state(rows=target_rows, seed=2)
    opened, on = save(base, tmp_path / "base"), save(target, tmp_path / "t")
    equipment = put_on(on, opened, [(vector(fine, tmp_path / "a"), "0.5")], target_ref="t")
    assert_complete(equipment, target)
    rows = min(base_rows, term_rows, target_rows)
    assert equipment.report.shared_rows == [
        {"term": "a", "tensor": "embed.weight", "rows": rows, "of": target_rows}
    ]
    found, theta = tensors_of(equipment)["embed.weight"], target["embed.weight"]
    tau = fine["embed.weight"][:rows].double() - base["embed.weight"][:rows].double()
    assert same(found[:rows], (theta[:rows].double() + 0.5 * tau).float())
    assert same(found[rows:], theta[rows:])


def test_a_lora_on_a_longer_embedding_covers_the_shared_rows(tmp_path: Path) -> None:
    base = state(rows=5)
    factors = {
        "embed.lora_embedding_A": torch.ones(1, 7),
        "embed.lora_embedding_B": torch.ones(3, 1),
    }
    opened = save(base, tmp_path / "base")
    equipment = put_on(opened, opened, [(lora(factors, tmp_path / "l", r=1, lora_alpha=1), "1")])
    assert equipment.report.shared_rows[0]["rows"] == 5
    assert same(tensors_of(equipment)["embed.weight"], base["embed.weight"] + 1)


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (12,), (4, 3, 1), (3, 4)])
def test_a_shape_that_does_not_fit_names_tensor_term_and_both_shapes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    opened = save(state(), tmp_path / "base")
    wrong = vector({LAYERS[1]: torch.zeros(shape)}, tmp_path / "ann", "delta")
    with pytest.raises(MergeError) as caught:
        put_on(opened, opened, [(wrong, "1")])
    text = " × ".join(map(str, shape))
    assert str(caught.value).startswith(f"`{LAYERS[1]}` is {text} in ann, 4 × 3 in the foundation")


@pytest.mark.parametrize("shape", [(8, 4), (24,), (8, 3, 1)])
def test_only_the_first_axis_of_an_embedding_may_differ(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    opened = save(state(), tmp_path / "base")
    wrong = vector({"embed.weight": torch.zeros(shape)}, tmp_path / "ann", "delta")
    with pytest.raises(MergeError, match=r"`embed.weight` is .* in ann"):
        put_on(opened, opened, [(wrong, "1")])


def test_a_target_of_another_width_is_refused(tmp_path: Path) -> None:
    opened = save(state(), tmp_path / "base")
    wide = save(state() | {LAYERS[0]: torch.zeros(4, 5)}, tmp_path / "t")
    with pytest.raises(MergeError, match=rf"`{LAYERS[0]}` .* 4 × 5 in the target"):
        put_on(wide, opened, [(vector(state(seed=1), tmp_path / "a"), "1")], target_ref="t")


def test_a_transposed_lora_is_refused(tmp_path: Path) -> None:
    opened = save(state(), tmp_path / "base")
    factors = {
        "layers.0.up.lora_A.weight": torch.ones(1, 4),
        "layers.0.up.lora_B.weight": torch.ones(3, 1),
    }
    with pytest.raises(MergeError, match=r"`layers.0.up.weight` is 3 × 4 in l"):
        put_on(opened, opened, [(lora(factors, tmp_path / "l", r=1, lora_alpha=1), "1")])


@pytest.mark.parametrize("word", ["model.", "language_model.model."])
@pytest.mark.parametrize("longer", ["target", "term"])
def test_a_prefix_is_matched_and_reported(tmp_path: Path, word: str, longer: str) -> None:
    """The vector of a language model on a model that sees, and the other way round."""
    ours, theirs = (word, "") if longer == "target" else ("", word)
    target = state(*(["vision.weight"] if longer == "target" else []), seed=2, prefix=ours)
    fine = state(seed=1, prefix=theirs)
    base = state(prefix=theirs)
    opened, on = save(base, tmp_path / "base"), save(target, tmp_path / "t")
    equipment = put_on(on, opened, [(vector(fine, tmp_path / "a"), "1")], target_ref="t")
    assert_complete(equipment, target)
    assert equipment.report.renamed == {"a": ("+" if longer == "target" else "-") + word}
    found = tensors_of(equipment)
    for name in LAYERS:
        tau = fine[theirs + name].double() - base[theirs + name].double()
        wanted = (target[ours + name].double() + tau).float()
        assert same(found[ours + name], wanted), name


def test_integer_buffers_are_the_targets_even_where_a_term_differs(tmp_path: Path) -> None:
    base = state() | {"positions": torch.arange(4)}
    fine = state(seed=1) | {"positions": torch.arange(7) + 100}
    opened = save(base, tmp_path / "base")
    equipment = put_on(opened, opened, [(vector(fine, tmp_path / "a"), "0.5")])
    assert equipment.report.cases["copied"] == ["positions"]
    assert same(tensors_of(equipment)["positions"], base["positions"])


@pytest.mark.parametrize("form", ["full", "delta"])
def test_a_quantised_term_is_refused_by_name(tmp_path: Path, form: str) -> None:
    opened = save(state(), tmp_path / "base")
    eight = vector({LAYERS[0]: torch.ones(4, 3).to(torch.int8)}, tmp_path / "q", form)
    with pytest.raises(MergeError, match=rf"`{LAYERS[0]}` is I8 in q: it is quantised"):
        put_on(opened, opened, [(eight, "0.5")])


def test_a_quantised_foundation_is_refused_by_name(tmp_path: Path) -> None:
    opened = save({LAYERS[0]: torch.ones(4, 3).to(torch.int8)}, tmp_path / "base")
    on = save(state(), tmp_path / "t")
    with pytest.raises(MergeError, match=rf"`{LAYERS[0]}` is I8 in the foundation"):
        put_on(on, opened, [(vector(state(seed=1), tmp_path / "a"), "0.5")], target_ref="t")


def test_a_term_of_another_float_type_is_merged(tmp_path: Path) -> None:
    base, fine = state(), {name: value.bfloat16() for name, value in state(seed=1).items()}
    opened = save(base, tmp_path / "base")
    found = tensors_of(put_on(opened, opened, [(vector(fine, tmp_path / "a"), "0.5")]))
    assert all(same(found[name], half_way(base[name], fine[name])) for name in base)


def test_whole_tensors_of_an_adapter_are_differences(tmp_path: Path) -> None:
    """modules_to_save and biases: their τ is what they differ from the foundation."""
    base = state("head.weight")
    head = torch.full((4, 3), 9.0)
    factors = {
        "layers.0.up.lora_A.weight": torch.ones(1, 3),
        "layers.0.up.lora_B.weight": torch.ones(4, 1),
        "head.weight": head,
        "layers.1.up.base_layer.bias": torch.ones(4),
    }
    opened = save(base, tmp_path / "base")
    term = lora(factors, tmp_path / "l", r=1, lora_alpha=2)
    equipment = put_on(opened, opened, [(term, "0.5")])
    assert equipment.report.dropped == {"l": ["layers.1.up.bias"]}
    found = tensors_of(equipment)
    assert same(found["head.weight"], half_way(base["head.weight"], head))
    assert same(found["layers.0.up.weight"], (base["layers.0.up.weight"].double() + 1).float())


def test_a_vector_that_shares_no_name_changes_nothing_and_says_so(tmp_path: Path) -> None:
    base = state()
    opened = save(base, tmp_path / "base")
    other = vector({"other.weight": torch.ones(4, 3)}, tmp_path / "o", "delta")
    equipment = put_on(opened, opened, [(other, "1")])
    assert equipment.report.dropped == {"o": ["other.weight"]}
    assert equipment.report.cases["merged"] == []
    assert all(same(tensors_of(equipment)[name], base[name]) for name in base)
