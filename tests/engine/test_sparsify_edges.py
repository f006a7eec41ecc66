"""Trimming methods where tensors, terms and requests are unusual, and what chance looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.engine import compute
from merging.engine.align import TermSource
from merging.engine.errors import RecipeError
from merging.engine.methods import della
from merging.engine.randomness import draws, key_of
from merging.engine.ranking import keep_by_rank
from merging.engine.recipe import make_recipe
from merging.engine.run import Equipment, equip, stream
from tests.engine.models import State, lora, put_on, same, save, tensors_of, tuned, vector
from tests.engine.sparse import METHODS, reference, state

FINE = torch.bfloat16


def plain(method: str) -> dict[str, Any]:
    return {"density": 0.4} | ({"epsilon": 0.2} if method.startswith("della") else {})


def merged(
    folder: Path, method: str, base: State, terms: list[tuple[TermSource, str]], **kwargs: Any
) -> State:
    opened = save(base, folder / "base")
    kwargs = {"parameters": plain(method), **kwargs}
    return tensors_of(put_on(opened, opened, terms, method=method, **kwargs))


@pytest.mark.parametrize("method", METHODS)
def test_lora_delta_and_absent_tensors(method: str, tmp_path: Path) -> None:
    """Every form of a vector is trimmed as the numbers it stands for."""
    base = state(FINE)
    generator = torch.Generator().manual_seed(9)
    left, right = (torch.randn(37, 2, generator=generator), torch.randn(2, 53, generator=generator))
    product = {"layers.1.lora_A.weight": right, "layers.1.lora_B.weight": left}
    full = tuned(base, 1)
    terms = [
        (lora(product, tmp_path / "l", r=2, lora_alpha=4), "0.5"),
        (vector(full, tmp_path / "f"), "0.8"),
    ]
    found = merged(tmp_path, method, base, terms)
    parameters = [plain(method)] * 2
    for name, own in (("layers.1.weight", 2 * (left @ right)), ("layers.0.weight", None)):
        theta = base[name].float().numpy()
        deltas = [np.zeros_like(theta) if own is None else own.numpy(),
                  full[name].float().numpy() - theta]  # fmt: skip
        wanted = reference(method, name, theta, deltas, [0.5, 0.8], ["0", "1"], parameters)
        numbers = torch.from_numpy(wanted).to(FINE)
        # The product may differ in its last bit, and so may what is rounded from it.
        assert (found[name] != numbers).float().mean() < (0.01 if own is not None else 0.001)
        torch.testing.assert_close(found[name], numbers, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_a_shorter_vocabulary_is_trimmed_as_if_the_rest_were_zero(
    method: str, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    base = {"embed.weight": torch.randn(40, 16, generator=generator).to(FINE)}
    shorter = {"embed.weight": tuned(base, 1)["embed.weight"][:30].clone()}
    terms = [(vector(shorter, tmp_path / "a"), "1"),
             (vector(tuned(base, 2), tmp_path / "b"), "0.5")]  # fmt: skip
    found = merged(tmp_path, method, base, terms)["embed.weight"]
    theta = base["embed.weight"].float().numpy()
    padded = np.zeros_like(theta)
    padded[:30] = shorter["embed.weight"].float().numpy() - theta[:30]
    deltas = [padded, tuned(base, 2)["embed.weight"].float().numpy() - theta]
    wanted = reference(
        method, "embed.weight", theta, deltas, [1, 0.5], ["0", "1"], [plain(method)] * 2
    )
    torch.testing.assert_close(found, torch.from_numpy(wanted).to(FINE), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("method", METHODS)
def test_eight_bit_targets(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = {"layers.0.weight": state(torch.float32)["layers.0.weight"].clamp(-3, 3).to(dtype)}
    fine = {"layers.0.weight": (base["layers.0.weight"].float() * 1.5).to(dtype)}
    found = merged(tmp_path, method, base, [(vector(fine, tmp_path / "a"), "1")])
    theta = base["layers.0.weight"].float().numpy()
    delta = fine["layers.0.weight"].float().numpy() - theta
    wanted = reference(method, "layers.0.weight", theta, [delta], [1], ["0"], [plain(method)])
    numbers = torch.from_numpy(wanted).to(dtype)
    assert (found["layers.0.weight"].float() != numbers.float()).float().mean() < 0.001


@pytest.mark.parametrize("method", METHODS)
def test_on_another_target_the_same_update_is_added(method: str, tmp_path: Path) -> None:
    base, on = state(torch.float32), tuned(state(torch.float32), 7)
    opened, target = save(base, tmp_path / "base"), save(on, tmp_path / "t")
    terms = [(vector(tuned(base, seed), tmp_path / f"v{seed}"), "0.6") for seed in (1, 2)]
    there = tensors_of(put_on(target, opened, terms, "t", method=method, parameters=plain(method)))
    here = tensors_of(put_on(opened, opened, terms, method=method, parameters=plain(method)))
    for name in ("layers.0.weight", "layers.1.kernel", "scale"):
        torch.testing.assert_close(
            there[name] - on[name], here[name] - base[name], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_term_whose_weight_is_nought_on_a_layer_has_no_vote_there(
    method: str, tmp_path: Path
) -> None:
    base = state(FINE)
    opened = save(base, tmp_path / "base")
    terms = [vector(tuned(base, seed), tmp_path / f"v{seed}") for seed in (1, 2)]
    schedule = {"weight": [{"filter": "layers.0", "value": 0.0}, {"value": 0.9}]}

    def run(*parts: tuple[Any, ...]) -> State:
        recipe = make_recipe(foundation="base", target="base", terms=parts, method=method,
                             parameters=plain(method))  # fmt: skip
        used = [next(t for t in terms if t.ref == part[0]) for part in parts]
        return tensors_of(equip(recipe, target=opened, foundation=opened, terms=used))

    both = run(("v1", "1"), ("v2", "1", schedule))
    alone = run(("v1", "1"))
    assert same(both["layers.0.weight"], alone["layers.0.weight"])
    assert not same(both["layers.1.weight"], alone["layers.1.weight"])


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_a_seed_is_a_model(method: str, tmp_path: Path) -> None:
    base = state(FINE)
    terms = [(vector(tuned(base, 1), tmp_path / "a"), "1")]
    first, again, other = (
        merged(tmp_path, method, base, terms, seed=seed)["layers.0.weight"] for seed in (5, 5, 6)
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "sce"])
def test_what_is_not_random_has_no_seed(method: str) -> None:
    recipes = [
        make_recipe(foundation="f", target="f", terms=[("a", 1), ("b", 1)], method=method, seed=s)
        for s in (1, 2)
    ]
    assert recipes[0].hash == recipes[1].hash


def test_dare_keeps_its_share_and_the_norm(tmp_path: Path) -> None:
    base = {"w": torch.zeros(400, 500)}
    delta = torch.randn(400, 500, generator=torch.Generator().manual_seed(1))
    terms = [(vector({"w": delta}, tmp_path / "a"), "1")]
    found = merged(tmp_path, "dare_linear", base, terms, parameters={"density": 0.1})["w"]
    kept = found != 0
    assert abs(float(kept.float().mean()) - 0.1) < 5 * np.sqrt(0.1 * 0.9 / delta.numel())
    torch.testing.assert_close(found.abs().sum(), delta.abs().sum(), rtol=1e-4, atol=0)
    scales = found[kept] / delta[kept]
    torch.testing.assert_close(scales, scales[0].expand_as(scales), rtol=1e-5, atol=0)


def test_della_keeps_by_rank() -> None:
    """The share that stays rises in a straight line, and equal entries share the mean."""
    rows, width, density, epsilon = 3000, 64, 0.5, 0.3
    row = np.linspace(1, 2, width, dtype=np.float32)
    row[10:30] = row[10]
    order = np.random.default_rng(0).permutation(width)
    patterns = np.tile(row[order], rows).view(np.uint32)
    kept = np.empty(patterns.size, np.uint8)
    keep_by_rank(patterns, width, 0, key_of(0, "a", "w"), density, epsilon, kept)
    share = np.empty(width)
    share[order] = kept.reshape(rows, width).mean(axis=0)
    rank = np.arange(width, dtype=float)
    rank[10:30] = rank[10:30].mean()
    wanted = density - epsilon + 2 * epsilon * rank / (width - 1)
    assert np.abs(share - wanted).max() < 4.5 * np.sqrt(0.25 / rows)
    assert abs(kept.mean() - density) < 4 * np.sqrt(0.25 / kept.size)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_della_on_very_short_rows(width: int) -> None:
    patterns = np.ones(60_000 // width * width, np.float32).view(np.uint32)
    kept = np.empty(patterns.size, np.uint8)
    keep_by_rank(patterns, width, 0, 7, 0.3, 0.2, kept)
    assert abs(kept.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / kept.size)


def test_terms_and_tensors_are_trimmed_independently(tmp_path: Path) -> None:
    base = {name: torch.zeros(300, 400) for name in ("u", "v")}
    ones = {name: torch.ones(300, 400) for name in base}
    masks = {}
    for place in range(2):
        weights = ["1", "0.5"]
        terms = [
            (vector(ones if n == place else base, tmp_path / f"{n}{place}"), weights[n])
            for n in range(2)
        ]
        found = merged(tmp_path, "dare_linear", base, terms, parameters={"density": 0.5})
        masks |= {(place, name): (found[name] != 0).numpy().reshape(-1) for name in base}
    every = np.corrcoef(list(masks.values())) - np.eye(4)
    assert np.abs(every).max() * np.sqrt(120_000) < 4.5


def test_a_band_that_leaves_the_probabilities_is_refused(tmp_path: Path) -> None:
    for density, epsilon in ((0.9, 0.15), (0.1, 0.1), (0.5, 0.5)):
        with pytest.raises(RecipeError, match="Choose an epsilon below"):
            make_recipe(foundation="f", target="f", terms=[("a", 1)], method="della",
                        parameters={"density": density, "epsilon": epsilon})  # fmt: skip
    base = state(FINE)
    terms = [(vector(tuned(base, 1), tmp_path / "a"), "1")]
    by_name = [{"filter": "layers.1", "value": 0.95}, {"value": 0.5}]
    with pytest.raises(RecipeError, match="Choose an epsilon below"):
        merged(tmp_path, "della", base, terms, parameters={"density": by_name})


def long_rows(folder: Path) -> Equipment:
    """A row longer than any block, a vector as long, and rows that no block divides."""
    generator = torch.Generator().manual_seed(2)
    base = {
        "wide": torch.randn(2, 1500, generator=generator).to(FINE),
        "vector": torch.randn(1700, generator=generator).to(FINE),
        "rows": torch.randn(90, 37, generator=generator),
    }
    opened = save(base, folder / "base")
    terms = [(vector(tuned(base, seed), folder / f"v{seed}"), "0.6") for seed in (1, 2)]
    return put_on(opened, opened, terms, method="della", parameters={"density": 0.5})


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), elements=st.sampled_from([5, 64, 1000, 4096]), held=st.sampled_from([0, 1]))
def test_rows_are_ranked_alike_for_every_range(
    tmp_path: Path, data: st.DataObject, elements: int, held: int
) -> None:
    """With the masks of the statistics at hand or without."""
    (file,) = long_rows(tmp_path / "whole").model.files.values()
    whole = b"".join(stream(file))
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "BLOCK_ELEMENTS", elements)
        patch.setattr(della, "SEGMENT", 50)  # a few rows for each of the held masks
        patch.setattr(della, "HELD_BYTES", held * 2**20)
        (fresh,) = long_rows(tmp_path / "part").model.files.values()
        assert b"".join(stream(fresh, start, stop)) == whole[start:stop]


def test_draws_of_a_tensor_are_those_of_its_name(tmp_path: Path) -> None:
    """And of the term's place: so anyone can say which entries of which vector were dropped."""
    base = {"w": torch.zeros(70, 90)}
    terms = [(vector({"w": torch.ones(70, 90)}, tmp_path / "a"), "1")]
    found = merged(tmp_path, "dare_linear", base, terms, seed=3,
                   parameters={"density": 0.25, "rescale": False})["w"]  # fmt: skip
    kept = draws(key_of(3, "0", "w"), 0, 6300).reshape(70, 90) < 2**30
    assert np.array_equal(found.numpy() != 0, kept)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_sce_of_equal_and_of_faint_vectors(share: float, tmp_path: Path) -> None:
    """Nothing differs, or the squares are too small to weigh by: no division by zero."""
    base = state(torch.float32)
    fine = tuned(base, 1)
    faint = {n: v + 1e-5 * torch.randn_like(v) if v.is_floating_point() else v
             for n, v in base.items()}  # fmt: skip
    equal = [(vector(fine, tmp_path / "a"), "1"), (vector(fine, tmp_path / "b"), "1")]
    found = merged(tmp_path, "sce", base, equal, parameters={"select_topk": share})
    wanted = fine if share == 1 else base
    for name in ("layers.0.weight", "layers.1.one", "scale"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-7)
    terms = [(vector(faint, tmp_path / "c"), "1"), (vector(base, tmp_path / "d"), "1")]
    found = merged(tmp_path, "sce", base, terms, parameters={"select_topk": share})
    moved = found["layers.0.weight"] != base["layers.0.weight"]
    assert abs(float(moved.float().mean()) - share) < 0.02
    torch.testing.assert_close(
        found["layers.0.weight"][moved], faint["layers.0.weight"][moved], rtol=1e-6, atol=1e-9
    )
