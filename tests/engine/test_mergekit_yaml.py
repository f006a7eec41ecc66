"""mergekit's YAML: what is understood, and that whatever is not is named."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.engine.document import Document, Entry, Files, recipe_of
from merging.engine.errors import RecipeError
from merging.engine.mergekit import read_yaml
from merging.engine.mergekit_write import write_yaml
from merging.engine.recipe import make_recipe

PLAIN: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "base_model": "org/base",
    "models": [
        {"model": "ann/a", "parameters": {"weight": 0.5}},
        {"model": "bo/b", "parameters": {"weight": -1}},
    ],
}


def read(**changes: Any) -> Document:
    """PLAIN with ``changes`` as mergekit's YAML, read. None leaves a key out."""
    data = {key: value for key, value in (PLAIN | changes).items() if value is not None}
    return read_yaml(yaml.safe_dump(data))


def refusal(text: str = "", **changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        _ = read_yaml(text) if text else read(**changes)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def with_weight(value: Any) -> list[dict[str, Any]]:
    return [{"model": "ann/a", "parameters": {"weight": value}}]


def test_a_plain_recipe() -> None:
    assert read() == Document(
        method="task_arithmetic",
        foundation="org/base",
        target="org/base",
        entries=(
            Entry("ann/a", None, Decimal("0.5")),
            Entry("bo/b", None, Decimal(-1)),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"parameters": {"lambda": 0.8, "normalize": True}}, "parameters", None),
        ({"dtype": "bfloat16"}, "out_dtype", "BF16"),
        ({"dtype": "float32", "out_dtype": "float16"}, "out_dtype", "F16"),
        ({"out_dtype": "float64"}, "out_dtype", "F64"),
        ({"dtype": "float32"}, "out_dtype", "F32"),
        ({"tokenizer_source": "base"}, "out_dtype", None),
        ({"tokenizer_source": "org/base"}, "out_dtype", None),
        ({"tokenizer": {"source": "base"}}, "out_dtype", None),
        ({"name": "a fine model"}, "out_dtype", None),
        ({"armory": {"target": "org/base"}, "models": None}, "", None),
    ],
    ids=str,
)
def test_accepted_keys(changes: dict[str, Any], field: str, value: Any) -> None:
    if not field:
        assert "`models`" in refusal(**changes)
        return
    wanted = changes["parameters"] if field == "parameters" else value
    assert getattr(read(**changes), field) == wanted


def test_the_base_listed_as_a_reminder_is_no_term() -> None:
    listed = [{"model": "org/base"}, *PLAIN["models"]]
    assert read(models=listed) == read()
    listed[0] = {"model": "org/base", "parameters": {"weight": 0.3}}
    assert read(models=listed) == read()


def test_linear_needs_no_base_and_takes_the_first_model_for_it() -> None:
    document = read(merge_method="linear", base_model=None)
    assert (document.foundation, document.target) == ("ann/a", "ann/a")
    assert len(document.entries) == 2
    house = {"foundation": "org/base", "target": "cy/t"}
    document = read(merge_method="linear", base_model=None, armory=house)
    assert (document.foundation, document.target) == ("org/base", "cy/t")
    listed = [{"model": "org/base", "parameters": {"weight": 1}}, *PLAIN["models"]]
    assert len(read(merge_method="linear", models=listed).entries) == 3


def test_an_adapter_is_written_behind_its_base() -> None:
    (entry,) = read(models=[{"model": "org/base+ann/l", "parameters": {"weight": 1}}]).entries
    assert entry == Entry("org/base", "ann/l", Decimal(1))
    assert "adapter after + is missing" in refusal(
        models=[{"model": "org/base+", "parameters": {"weight": 1}}]
    )


def test_the_target_is_taken_out_of_the_sum() -> None:
    models = [{"model": "cy/t", "parameters": {"weight": 1.0}}, *PLAIN["models"]]
    document = read(models=models, armory={"target": "cy/t"})
    assert document.target == "cy/t"
    assert document.entries == read().entries
    models[0]["parameters"]["weight"] = 0.9
    assert "`armory: target` names cy/t" in refusal(models=models, armory={"target": "cy/t"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # keys of mergekit that are not supported
        ({"chat_template": "auto"}, "`chat_template: auto` is not supported"),
        ({"chat_template": "chatml"}, "`chat_template: chatml` is not supported"),
        ({"chat_template": 5}, "`chat_template`"),
        ({"tokenizer_source": ["base"]}, "`tokenizer_source`"),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "union"}, "both"),
        ({"tokenizer": {"tokens": {"<s>": {"source": "ann/a"}}}}, "`tokenizer.tokens`"),
        ({"tokenizer": {"pad_to_multiple_of": "8"}}, "`tokenizer.pad_to_multiple_of`"),
        ({"tokenizer": "union"}, "`tokenizer`"),
        # misspelt or misplaced
        ({"parametres": {}}, "`parametres`"),
        ({"Models": []}, "`Models`"),
        ({"tokenizer": {"sauce": "base"}}, "`tokenizer.sauce`"),
        ({"armory": {"targit": "x"}}, "`armory.targit`"),
        ({"armory": "cy/t"}, "`armory`"),
        ({"armory": ["target"]}, "`armory`"),
        ({"armory": {"target": 5}}, "`armory.target`"),
        ({"armory": {"target": "a+b"}}, "`armory.target`"),
        ({"armory": {"dtype": "float32"}}, "`armory.dtype`"),
        ({"armory": {"seed": -1}}, "`seed`"),
        ({"armory": {"seed": "1"}}, "`seed`"),
        ({"armory": {"rules": "skip *"}}, "`rules`"),
        ({"armory": {"rules": ["sip *"]}}, "`sip *`"),
        ({"base_model": "org/base+ann/l"}, "org/base+ann/l"),
        ({"base_model": 5}, "`base_model`"),
        ({"base_model": ["org/base"]}, "`base_model`"),
        ({"base_model": "  "}, "`base_model`"),
        ({"merge_method": None}, "`merge_method`"),
        ({"merge_method": ["linear"]}, "`merge_method`"),
        ({"merge_method": "tiez"}, "tiez"),
        ({"merge_method": "dare-ties"}, "dare-ties"),
        ({"base_model": None}, "`base_model`"),
        # types
        ({"dtype": "int8"}, "`dtype: int8`"),
        ({"dtype": "float8_e5m2"}, "`dtype: float8_e5m2`"),
        ({"out_dtype": "auto"}, "`out_dtype: auto`"),
        ({"dtype": ["float32"]}, "`dtype: list`"),
        ({"dtype": {"a": 1}}, "`dtype: dict`"),
        ({"dtype": False}, "`dtype: False`"),
        ({"parameters": ["lambda"]}, "`parameters` must be a mapping"),
        ({"parameters": {"lambda": "1"}}, "`parameters.lambda`: `lambda` is a number"),
        ({"parameters": {"lambda": None}}, "`parameters.lambda`: `lambda` is a number"),
        ({"parameters": {"lambda": []}}, "`parameters.lambda`"),
        ({"parameters": {"lambda": [{"value": 1}, {"value": 2}]}}, "can ever count"),
        ({"parameters": {5: 1}}, "`parameters.5`"),
        # models
        ({"models": []}, "`models`"),
        ({"models": None}, "`models`"),
        ({"models": {"model": "a"}}, "`models`"),
        ({"models": ["ann/a"]}, "`models[0]` needs the key `model`"),
        ({"models": [{"parameters": {"weight": 1}}]}, "`models[0]`"),
        ({"models": [{"model": None, "parameters": {"weight": 1}}]}, "`models[0].model`"),
        ({"models": [{"model": "ann/a"}]}, "ann/a has no `weight`"),
        ({"models": [*PLAIN["models"], {"model": "c", "weight": 1}]}, "`models[2].weight`"),
        (
            {"models": [{"model": "ann/a", "parameters": {"weight": 1, "density": 0.5}}]},
            "`models[0].parameters.density`",
        ),
        (
            {"models": [{"model": "ann/a", "parameters": {"weight": 1, "normalize": True}}]},
            "`models[0].parameters.normalize`: a model cannot have its own `normalize`",
        ),
        ({"models": [{"model": "ann/a", "parameters": 1}]}, "`models[0].parameters`"),
        (
            {"models": [{"model": "org/base", "parameters": {"densty": 1}}, *PLAIN["models"]]},
            "`models[0].parameters.densty`",
        ),
        ({"models": [{"model": "org/base"}]}, "no model besides the base"),
        ({"models": with_weight("much")}, "`models[0].parameters.weight`: much is not a number"),
        ({"models": with_weight(True)}, "True is not a number"),
        ({"models": with_weight(None)}, "None is not a number"),
        ({"models": with_weight(float("nan"))}, "out of range"),
        ({"models": with_weight(float("inf"))}, "out of range"),
        ({"models": with_weight(1000)}, "out of range"),
        ({"models": with_weight([0.1, "x"])}, "`models[0].parameters.weight`"),
        ({"models": with_weight([{"filter": "mlp", "value": 1}])}, "match no filter"),
        ({"models": with_weight({"filter": 5, "value": 1})}, "`weight`"),
        # modules
        ({"modules": {"a": {}}}, "both `models` and `modules`"),
        ({"modules": {}, "models": None}, "`modules`"),
        ({"modules": {"a": {"parameters": {}}}, "models": None}, "`modules.a`"),
        ({"modules": {"a": {"modles": []}}, "models": None}, "`modules.a.modles`"),
        (
            {
                "modules": {"a": {"models": PLAIN["models"]}, "b": {"models": with_weight(1)}},
                "models": None,
            },
            "`modules.a` and `modules.b` differ",
        ),
    ],
    ids=str,
)
def test_what_is_not_understood_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(**changes)


@pytest.mark.parametrize("name", ["density", "epsilon", "t", "rescale"])
def test_parameters_of_other_methods_are_named(name: str) -> None:
    """The peer ignores them, and writes another model than was asked for."""
    assert f"`parameters.{name}`" in refusal(parameters={name: 0.5})


# Parameters: settings, and which place counts


def terms_of(**changes: Any) -> list[Any]:
    """The entries as (name, weight, parameters)."""
    return [(e.model, e.weight, dict(e.parameters)) for e in read(**changes).entries]


def test_a_weight_for_all_serves_models_without_one() -> None:
    models = [{"model": "a"}, {"model": "b", "parameters": {"weight": 2}}]
    found = terms_of(models=models, parameters={"weight": 0.3})
    assert found == [("a", Decimal("0.3"), {}), ("b", Decimal(2), {})]


@pytest.mark.parametrize(
    ("weight", "coefficient", "schedule"),
    [
        ([0, 0.3, 1], "1", [0, 0.3, 1]),
        ([0.5, 0.5], "0.5", None),
        ({"value": 0.5}, "0.5", None),
        ([{"filter": "mlp", "value": 0.5}, {"value": [0, 1]}], "1", None),
        ([{"filter": "*", "value": 0.5}], "0.5", None),
    ],
    ids=str,
)
def test_weights_may_be_schedules(weight: Any, coefficient: str, schedule: Any) -> None:
    ((_name, found, parameters),) = terms_of(models=with_weight(weight))
    assert found == Decimal(coefficient)
    if found == 1:
        assert parameters["weight"] == (schedule or weight)


def test_where_filters_end_the_next_place_is_asked() -> None:
    models = with_weight([{"filter": "mlp", "value": 0.5}])
    for outer, rest in ((2, [{"value": 2}]), ([0, 1], [{"value": [0, 1]}])):
        ((_n, _c, found),) = terms_of(models=models, parameters={"weight": outer})
        assert found["weight"] == [{"filter": "mlp", "value": 0.5}, *rest]
    outer = [{"filter": "attn", "value": 3}, {"value": 4}]
    ((_n, _c, found),) = terms_of(models=models, parameters={"weight": outer})
    assert found["weight"] == [{"filter": "mlp", "value": 0.5}, *outer]


def test_one_module_is_the_model() -> None:
    modules = {"decoder": {"models": PLAIN["models"], "parameters": {"lambda": 0.5}}}
    document = read(models=None, modules=modules, parameters={"lambda": 0.7, "normalize": 1})
    assert document.parameters == {"lambda": 0.5, "normalize": True}
    assert document.entries == read().entries
    twice = {"vision": modules["decoder"], **modules}
    assert read(models=None, modules=twice) == read(models=None, modules=modules)


def test_numbers_may_be_written_as_people_write_them() -> None:
    text = yaml.safe_dump(PLAIN) + "parameters: {lambda: 5e-1, normalize: 0, int8_mask: 1.0}\n"
    assert read_yaml(text).parameters == {"lambda": 0.5, "normalize": False}


def test_an_average_takes_the_base_for_a_model_too() -> None:
    """As mergekit does: every model counts, so a base without a weight is a mistake."""
    assert "org/base has no `weight`" in refusal(merge_method="linear")
    models = [{"model": "ann/a"}]
    found = terms_of(merge_method="linear", models=models, parameters={"weight": 0.5})
    assert found == [("ann/a", Decimal("0.5"), {}), ("org/base", Decimal("0.5"), {})]


def test_files_beside_the_weights() -> None:
    found = read(
        tokenizer={"source": "ann/a", "pad_to_multiple_of": 64},
        chat_template="{{ messages }}",
        armory={"configuration_from": "bo/b"},
    )
    assert found.files == Files("ann/a", 64, "{{ messages }}", "bo/b")
    assert read(tokenizer_source="union").files.tokenizer_source == "union"
    assert read(tokenizer={"pad_to_multiple_of": 8}).files.tokenizer_source == "union"


def test_rules_and_seed() -> None:
    document = read(armory={"rules": ["skip *embed* of ann/a", "keep  lm_head"], "seed": 7})
    assert [rule.text for rule in document.rules] == ["skip *embed* of ann/a", "keep lm_head"]
    assert document.seed == 7


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("merge_method: linear\nmerge_method: task_arithmetic\n", "`merge_method` appears twice"),
        (
            "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: 1, weight: 2}\n",
            "`weight` appears twice",
        ),
        ("", "mapping of keys"),
        ("- a\n- b\n", "mapping of keys"),
        ("just text", "mapping of keys"),
        ("a: b: c", "not YAML (line 1)"),
        ("merge_method: linear\nmodels: [\n", "not YAML (line 3)"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("name: 2001-99-99", "not YAML"),
        ("name: !!int x", "not YAML"),
        ("name: !!bool x", "not YAML"),
        ("name: !!timestamp x", "not YAML"),
        ("name: " + "9" * 5000, "not YAML"),
        ("name: " + "[" * 5000, "not YAML"),
        ("a: \x00", "not YAML"),
        ("5: x", "`5`"),
        ("[1, 2]: x", "not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, named: str) -> None:
    assert named in refusal(text or " ")


def test_aliases_of_aliases_cost_nothing() -> None:
    """Ten lines that spell a thousand million words, were they ever printed."""
    lines = ["name: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    bomb = "name: &b\n" + "".join(f"  {line}\n" for line in lines)
    bomb = bomb.replace("name: &a0", "k0: &a0")
    for key in ("dtype", "tokenizer_source", "base_model", "armory", "parameters", "models"):
        data = PLAIN | {key: "BOMB"}
        assert refusal(bomb + yaml.safe_dump(data).replace("BOMB", "*a9"))
    for name in ("lambda", "normalize"):
        assert refusal(bomb + yaml.safe_dump(PLAIN) + f"parameters: {{{name}: *a9}}\n")
    for where in ("ann/a", "0.5"):
        assert refusal(bomb + yaml.safe_dump(PLAIN).replace(where, "*a9"))


def test_anchors_may_be_used() -> None:
    text = yaml.safe_dump(PLAIN).replace("weight: 0.5", "weight: &w 0.5").replace("-1", "*w")
    assert [entry.weight for entry in read_yaml(text).entries] == [Decimal("0.5")] * 2


# There and back

FORMS = {"a": "full", "b": "delta", "c": "lora", "t": "full"}
FOUNDATION = "f"


def name_of(ref: str) -> str:
    return f"org/{ref}"


def ref_of(model: str, lora: str | None) -> str:
    return (lora or model).removeprefix("org/")


coefficients = st.decimals(-100, 100, places=9).filter(bool)


@settings(max_examples=200, deadline=None)
@given(
    terms=st.dictionaries(st.sampled_from("abct"), coefficients, min_size=1),
    target=st.sampled_from(["f", "t"]),
    method=st.sampled_from(["task_arithmetic", "linear"]),
    factor=st.sampled_from([1, 0.3, -2.5]),
    normalize=st.booleans(),
    out_dtype=st.sampled_from([None, "F32", "BF16"]),
    dtype=st.sampled_from(["F32", "BF16", "F8_E4M3", ""]),
)
def test_what_is_written_is_read_as_the_same_recipe(
    terms: dict[str, Decimal],
    target: str,
    method: str,
    factor: float,
    normalize: bool,
    out_dtype: str | None,
    dtype: str,
) -> None:
    parameters: dict[str, Any] = {"normalize": normalize and sum(terms.values()) != 0}
    if method == "task_arithmetic":
        parameters["lambda"] = factor
    recipe = make_recipe(
        foundation=FOUNDATION,
        target=target,
        terms=list(terms.items()),
        method=method,
        parameters=parameters,
        out_dtype=out_dtype,
    )
    text = write_yaml(recipe, name_of=name_of, form_of=FORMS.__getitem__, out_dtype=dtype)
    document = read_yaml(text)
    assert recipe_of(document, ref_of) == recipe
    assert {entry.lora for entry in document.entries if entry.lora} <= {"org/c"}


def test_the_written_file_is_mergekits() -> None:
    recipe = make_recipe(foundation="f", target="t", terms=[("a", "0.5"), ("c", "-1")])
    text = write_yaml(recipe, name_of=name_of, form_of=FORMS.__getitem__, out_dtype="BF16")
    data = yaml.safe_load(text)
    assert data == {
        "merge_method": "task_arithmetic",
        "base_model": "org/f",
        "models": [
            {"model": "org/t", "parameters": {"weight": 1.0}},
            {"model": "org/a", "parameters": {"weight": 0.5}},
            {"model": "org/f+org/c", "parameters": {"weight": -1.0}},
        ],
        "dtype": "float32",
        "out_dtype": "bfloat16",
        "armory": {"target": "org/t", "dtype": "target"},
    }
    assert not text.startswith("#")


def test_a_target_that_mergekit_cannot_say_is_not_one_more_model() -> None:
    """With lambda it would be multiplied too."""
    recipe = make_recipe(
        foundation="f", target="t", terms=[("a", "0.5"), ("b", "1")], parameters={"lambda": 0.8}
    )
    text = write_yaml(recipe, name_of=name_of, form_of=FORMS.__getitem__, out_dtype="BF16")
    assert [entry["model"] for entry in yaml.safe_load(text)["models"]] == ["org/a", "org/b"]
    notes = [line for line in text.splitlines() if line.startswith("#")]
    assert "armory: target" in notes[0]
    assert "delta.safetensors" in notes[1]
    assert recipe_of(read_yaml(text), ref_of) == recipe
