"""What the engine promises to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.engine.align import TermSource
from merging.engine.errors import MergeError
from merging.engine.recipe import Recipe, make_recipe
from merging.engine.run import identity
from tests.engine.models import (
    State,
    foundation,
    lora,
    put_on,
    same,
    save,
    tensors_of,
    tuned,
    vector,
)
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.lora import read_adapter

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_full_vector_at_one_gives_the_fine_tune(tmp_path: Path, dtype: torch.dtype) -> None:
    base, fine = foundation(dtype), tuned(foundation(dtype), 1)
    opened = save(base, tmp_path / "base")
    source = TermSource("a", "a", "full", save(fine, tmp_path / "a"))
    result = tensors_of(put_on(opened, opened, [(source, "1")]))
    assert all(same(result[name], fine[name]) for name in fine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_cancelling_terms_give_the_target(tmp_path: Path, dtype: torch.dtype) -> None:
    base = foundation(dtype)
    opened = save(base, tmp_path / "base")
    source = TermSource("a", "a", "full", save(tuned(base, 1), tmp_path / "a"))
    for terms in ([(source, "0")], [(source, "0.7"), (source, "-0.7")], []):
        result = tensors_of(put_on(opened, opened, terms))
        assert all(same(result[name], base[name]) for name in base)


def test_a_fine_tune_minus_its_own_vector_is_the_foundation(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    opened, fine = save(base, tmp_path / "base"), save(tuned(base, 1), tmp_path / "a")
    source = TermSource("a", "a", "full", fine)
    result = tensors_of(put_on(fine, opened, [(source, "-1")], target_ref="a"))
    assert all(same(result[name], base[name]) for name in base)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_follow_the_definition(tmp_path: Path, dtype: torch.dtype) -> None:
    """Multiply, then add, in order, in float32 (or float64), rounded once."""
    base = foundation(dtype)
    first, second = tuned(base, 1), tuned(base, 2)
    delta = {"layers.1.weight": (0.01 * torch.randn(37, 53)).half()}
    lora = {
        "base_model.model.layers.2.lora_A.weight": 0.1 * torch.randn(4, 53),
        "base_model.model.layers.2.lora_B.weight": 0.1 * torch.randn(37, 4),
    }
    opened = save(base, tmp_path / "base")
    adapter = read_adapter({"r": 4, "lora_alpha": 8}, save(lora, tmp_path / "l", "adapter_model"))
    terms = [
        (TermSource("a", "a", "full", save(first, tmp_path / "a")), "0.7"),
        (TermSource("b", "b", "full", save(second, tmp_path / "b")), "-0.3"),
        (TermSource("d", "d", "delta", save(delta, tmp_path / "d", "delta")), "0.5"),
        (TermSource("l", "l", "lora", adapter), "1.5"),
    ]
    result = tensors_of(put_on(opened, opened, terms))
    wide = torch.float64 if dtype in (torch.float32, torch.float64) else torch.float32

    def number(text: str) -> torch.Tensor:
        return torch.tensor(float(text), dtype=wide)

    for name, value in base.items():
        if not value.is_floating_point():
            assert same(result[name], value)
            continue
        theta = value.to(wide)
        total = number("0.7") * (first[name].to(wide) - theta)
        total = total + number("-0.3") * (second[name].to(wide) - theta)
        if name == "layers.1.weight":
            total = total + number("0.5") * delta[name].to(wide)
        if name == "layers.2.weight":
            left = lora["base_model.model.layers.2.lora_B.weight"].to(wide)
            right = lora["base_model.model.layers.2.lora_A.weight"].to(wide)
            product = torch.zeros(37, 53, dtype=wide)
            for k in range(4):
                product = product + left[:, k : k + 1] * right[k : k + 1]
            total = total + number("1.5") * (number("2") * product)
        assert same(result[name], (theta + total).to(dtype)), name


# The same, for anything: hypothesis chooses dtypes, shapes, coefficients and mixtures.

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
NAMES = ["layers.0.weight", "layers.1.weight", "norm.bias"]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
coefficients = st.decimals(-3, 3, places=3).map(str)
nonzero = coefficients.filter(lambda text: float(text) != 0)
matrices = st.tuples(st.integers(1, 5), st.integers(1, 9))
layouts = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.sampled_from(sorted(TORCH)), matrices if "weight" in name else st.just((7,))
        )
        for name in NAMES
    }
)
examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def random_state(layout: Shapes, seed: int, scale: float = 1.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (scale * torch.randn(shape, generator=generator)).to(TORCH[dtype])
        for name, (dtype, shape) in layout.items()
    }


def all_same(found: State, wanted: State) -> bool:
    return set(found) == set(wanted) and all(same(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Gives a new folder on each call, so that hypothesis' examples do not meet."""
    numbers = count()
    root = tmp_path_factory.mktemp("examples")
    return lambda: root / str(next(numbers))


@examples
@given(layout=layouts, tuned_layout=layouts)
def test_one_full_vector_at_one_is_the_fine_tune_of_any_dtype(
    room: Callable[[], Path], layout: Shapes, tuned_layout: Shapes
) -> None:
    """Even where it has other dtypes than the foundation, and values no sum would give back."""
    layout_of_tuned = {name: (tuned_layout[name][0], layout[name][1]) for name in layout}
    folder = room()
    base = save(random_state(layout, 0), folder / "base")
    fine = random_state(layout_of_tuned, 1, scale=1e4)
    equipment = put_on(base, base, [(vector(fine, folder / "a"), "1")])
    assert all_same(tensors_of(equipment), fine)
    assert equipment.source == equipment.report.collapsed_to == "a"


@examples
@given(layout=layouts, first=coefficients, form=st.sampled_from(["full", "delta"]))
def test_what_cancels_leaves_the_target(
    room: Callable[[], Path], layout: Shapes, first: str, form: str
) -> None:
    folder = room()
    base, target = random_state(layout, 0), random_state(layout, 3)
    opened, on = save(base, folder / "base"), save(target, folder / "t")
    term = vector(random_state(layout, 1), folder / "a", form)
    back = first.removeprefix("-") if first.startswith("-") else f"-{first}"
    for terms in ([(term, first), (term, back)], [(term, "0")], []):
        assert all_same(tensors_of(put_on(on, opened, terms, target_ref="t")), target)


@examples
@given(layout=layouts)
def test_the_vector_of_the_target_taken_away_is_the_foundation(
    room: Callable[[], Path], layout: Shapes
) -> None:
    folder = room()
    base = random_state(layout, 0)
    opened, term = save(base, folder / "base"), vector(random_state(layout, 1, 1e3), folder / "a")
    assert isinstance(term.content, Checkpoint)
    taken = put_on(term.content, opened, [(term, "-1")], target_ref="a")
    assert all_same(tensors_of(taken), base)
    exchanged = put_on(
        term.content,
        opened,
        [(term, "-1"), (vector(random_state(layout, 2), folder / "b"), "1")],
        target_ref="a",
    )
    assert all_same(tensors_of(exchanged), random_state(layout, 2))


@st.composite
def mixtures(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Forms and coefficients of one to four terms."""
    forms = st.sampled_from(["full", "delta", "lora", "part", "lora of one"])
    return draw(st.lists(st.tuples(forms, nonzero), min_size=1, max_size=4))


@settings(examples, max_examples=60)
@given(
    layout=layouts,
    mixture=mixtures(),
    factor=st.sampled_from([1, 0.3, -2]),
    normalize=st.booleans(),
    on_itself=st.booleans(),
)
def test_any_mixture_is_the_plain_sum_in_torch(
    room: Callable[[], Path],
    layout: Shapes,
    mixture: list[tuple[str, str]],
    factor: float,
    normalize: bool,
    on_itself: bool,
) -> None:
    """target + λ · Σ wᵢ τᵢ (over Σ wᵢ): multiply, then add, in order, one rounding at the end.

    Float32 for types of 16 bits, float64 for the others; the reference knows nothing of blocks.
    """
    weights = [float(coefficient) for _form, coefficient in mixture]
    normalize = normalize and sum(Decimal(coefficient) for _form, coefficient in mixture) != 0
    folder = room()
    base = random_state(layout, 0)
    target = base if on_itself else random_state(layout, 9)
    opened = save(base, folder / "base")
    on = opened if on_itself else save(target, folder / "target")
    terms, effects = [], []
    for number, (form, coefficient) in enumerate(mixture):
        term, effect = any_term(form, layout, base, folder / f"{form} {number}", number)
        terms.append((term, coefficient))
        effects.append(effect)
    equipment = put_on(
        on,
        opened,
        terms,
        target_ref="base" if on_itself else "target",
        parameters={"lambda": factor, "normalize": normalize},
    )
    if equipment.report.collapsed_to:  # then no sum is computed: tested above
        return
    found = tensors_of(equipment)
    for name, theta in target.items():
        wide = torch.float32 if theta.dtype in (torch.float16, torch.bfloat16) else torch.float64
        touched = [name in effect for effect in effects]
        if not any(touched):
            assert same(found[name], theta), name
            continue
        total = torch.zeros(theta.shape, dtype=wide)
        for weight, effect in zip(weights, effects, strict=True):
            if name in effect:
                total = total + torch.tensor(weight, dtype=wide) * effect[name](wide)
        if normalize:
            total = total / torch.tensor(sum(weights), dtype=wide)
        wanted = theta.to(wide) + torch.tensor(factor, dtype=wide) * total
        assert same(found[name], wanted.to(theta.dtype)), name


def any_term(
    form: str, layout: Shapes, base: State, folder: Path, seed: int
) -> tuple[TermSource, dict[str, Callable[[torch.dtype], torch.Tensor]]]:
    """A term of ``form`` and, for each tensor that it touches, its τ in a given precision."""
    state = random_state(layout, seed + 20)
    if form in ("full", "part"):
        names = NAMES[:1] if form == "part" else NAMES
        state = {name: state[name] for name in names}
        return vector(state, folder), {
            name: lambda wide, name=name: state[name].to(wide) - base[name].to(wide)
            for name in names
        }
    if form == "delta":
        small = {name: (0.01 * state[name].double()).half() for name in NAMES[1:]}
        return vector(small, folder, "delta"), {
            name: lambda wide, name=name: small[name].to(wide) for name in small
        }
    rank = 3
    names = NAMES[:1] if form == "lora of one" else NAMES[:2]
    factors = {}
    for name in names:
        rows, columns = layout[name][1]
        module = name.removesuffix(".weight")
        factors[f"{module}.lora_A.weight"] = torch.randn(rank, columns).bfloat16()
        factors[f"{module}.lora_B.weight"] = torch.randn(rows, rank).half()

    def product(name: str, wide: torch.dtype) -> torch.Tensor:
        module = name.removesuffix(".weight")
        left = factors[f"{module}.lora_B.weight"].to(wide)
        right = factors[f"{module}.lora_A.weight"].to(wide)
        total = torch.zeros(layout[name][1], dtype=wide)
        for k in range(rank):
            total = total + left[:, k : k + 1] * right[k : k + 1]
        return torch.tensor(5 / rank, dtype=wide) * total

    return lora(factors, folder, r=rank, lora_alpha=5), {
        name: lambda wide, name=name: product(name, wide) for name in names
    }


def test_the_order_of_the_terms_is_kept(tmp_path: Path) -> None:
    """10⁸ + 1 − 10⁸ in float32 is 0 in one order and 1 in the other."""
    base = {"layers.0.weight": torch.zeros(1, 1).half()}
    opened = save(base, tmp_path / "base")
    terms = [
        (vector({"layers.0.weight": torch.tensor([[value]])}, tmp_path / name, "delta"), "1")
        for name, value in (("large", 1e8), ("small", 1.0), ("back", -1e8))
    ]
    kept = tensors_of(put_on(opened, opened, terms))["layers.0.weight"]
    turned = tensors_of(put_on(opened, opened, [terms[0], terms[2], terms[1]]))["layers.0.weight"]
    assert (kept.item(), turned.item()) == (0.0, 1.0)


def test_an_output_dtype_rounds_once_and_collapses_nothing(tmp_path: Path) -> None:
    """In float64 from a bfloat16 target; integers keep their type."""
    base = foundation(torch.float32)
    fine = tuned(base, 1)
    opened = save(base, tmp_path / "base")
    term = vector(fine, tmp_path / "a")
    equipment = put_on(opened, opened, [(term, "1")], out_dtype="BF16")
    assert equipment.report.collapsed_to is None
    found = tensors_of(equipment)
    for name, value in base.items():
        if value.is_floating_point():
            wide = value.double()
            wanted = wide + (fine[name].double() - wide)
            assert same(found[name], wanted.float().bfloat16()), name
        else:
            assert same(found[name], value)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_broken_number_is_an_error_that_names_model_and_tensor(
    tmp_path: Path, value: float, word: str
) -> None:
    """The peer writes the model and exits with 0."""
    base = {"layers.0.weight": torch.zeros(1, 5).bfloat16()}
    broken = {"layers.0.weight": torch.tensor([[1, 2, value, 4, 5]]).bfloat16()}
    opened = save(base, tmp_path / "base")
    equipment = put_on(opened, opened, [(vector(broken, tmp_path / "ann"), "0.5")])
    with pytest.raises(MergeError, match=rf"`layers.0.weight` of ann holds {word} \(element 2\)"):
        tensors_of(equipment)


def test_numbers_too_large_for_the_type_are_an_error(tmp_path: Path) -> None:
    base = {"layers.0.weight": torch.full((1, 5), 60000.0).half()}
    tuned = {"layers.0.weight": torch.full((1, 5), 64000.0).half()}
    opened = save(base, tmp_path / "base")
    fits = tensors_of(put_on(opened, opened, [(vector(tuned, tmp_path / "a"), "1.25")]))
    assert fits["layers.0.weight"].tolist() == [[64992.0] * 5]
    equipment = put_on(opened, opened, [(vector(tuned, tmp_path / "b"), "2")])
    with pytest.raises(MergeError, match=r"`layers\.0\.weight` does not fit into F16"):
        tensors_of(equipment)
    wide = put_on(opened, opened, [(vector(tuned, tmp_path / "c"), "2")], out_dtype="F32")
    assert tensors_of(wide)["layers.0.weight"].tolist() == [[68000.0] * 5]


def test_one_result_has_one_identity_per_file(tmp_path: Path) -> None:
    def recipe(weight: str) -> Recipe:
        return make_recipe(foundation="f", target="f", terms=[("a", weight)])

    same_twice = {
        identity(recipe("0.5"), "model.safetensors"),
        identity(recipe("0.50"), "model.safetensors"),
    }
    others = {identity(recipe("0.6"), "model.safetensors"), identity(recipe("0.5"), "other")}
    assert len(same_twice) == 1
    assert len(same_twice | others) == 3
