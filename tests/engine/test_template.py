"""The chat template and end mark of a vector in the configuration of its target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from merging.engine.errors import MergeError
from merging.engine.template import carry_template, chat_templates, template_files
from vectors.tensorfile.errors import TensorFileError

from .token_files import CHINESE, LLAMA, bpe, files

TURN, OLD = "{{ messages }}<|im_end|>\n", "old"
# The end mark is token 8 of the chat model; in the target, words came before it.
CHAT = bpe(LLAMA, {"<|im_end|>": 8, "<|eot|>": 9})
TARGET = bpe([*LLAMA, *CHINESE], {"<|eot|>": 12, "<|im_end|>": 13})


def vector(**contents: Any) -> dict[str, Any]:
    """A chat model's files; ``contents`` by the first word of the path, None leaves one out."""
    return _files(
        {
            "tokenizer.json": CHAT,
            "tokenizer_config.json": {"eos_token": "<|im_end|>", "chat_template": TURN},
            "generation_config.json": {"eos_token_id": 8, "temperature": 0.6},
        },
        contents,
    )


def target(**contents: Any) -> dict[str, Any]:
    """A Chinese LLaMA's files."""
    return _files(
        {
            "tokenizer.json": TARGET,
            "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "legacy": True},
            "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
            "config.json": {"model_type": "llama", "eos_token_id": 2, "rms_norm_eps": 1e-05},
        },
        contents,
    )


def _files(contents: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "config": "config.json",
        "tokenizer": "tokenizer.json",
        "tokenizer_config": "tokenizer_config.json",
        "generation": "generation_config.json",
        "special": "special_tokens_map.json",
        "processor": "chat_template.json",
        "jinja": "chat_template.jinja",
        "tools": "additional_chat_templates/tools.jinja",
        "rag": "additional_chat_templates/rag.jinja",
    }
    contents |= {names[word]: content for word, content in changes.items()}
    return {path: content for path, content in contents.items() if content is not None}


def carried(target: dict[str, Any], vector: dict[str, Any]) -> dict[str, Any]:
    """What changes: JSON parsed, other files as text."""
    found = carry_template(files(target), files(vector), label="chat")
    return {
        path: json.loads(raw) if path.endswith(".json") else raw.decode()
        for path, raw in found.items()
    }


def test_a_target_answers_in_the_vectors_turns() -> None:
    assert carried(target(), vector()) == {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "<|im_end|>",
            "legacy": True,
            "chat_template": TURN,
        },
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 13},
        "config.json": {"model_type": "llama", "eos_token_id": 13, "rms_norm_eps": 1e-05},
    }


def test_transformers_reads_the_result(tmp_path: Path) -> None:
    """Including the file that goes before the field of the same meaning."""
    kinds = {"model_type": "llama", "tokenizer_class": "PreTrainedTokenizerFast"}
    on = target(
        tokenizer_config={**kinds, "eos_token": "</s>", "chat_template": OLD}, jinja=OLD, tools=OLD
    )
    for path, raw in {
        **{path: source._data for path, source in files(on).items()},
        **carry_template(files(on), files(vector())),
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(raw)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_chat_template() == TURN
    assert tokenizer.get_chat_template(tools=[{}]) == TURN
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 13)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 13


def test_json_changes_in_the_changed_lines_only() -> None:
    raw = (
        '{\n    "z": 1e-05,\n    "名": "\u00e9",\n    "eos_token": {\n        "content": "</s>",\n'
        '        "lstrip": false\n    },\n    "chat_template": "old",\n'
        '    "model_max_length": 1000000000000000019884624838656\n}\n'
    )
    found = carry_template(files(target(tokenizer_config=raw)), files(vector()), label="chat")[
        "tokenizer_config.json"
    ].decode()
    before, after = raw.splitlines(keepends=True), found.splitlines(keepends=True)
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [
        ('        "content": "</s>",\n', '        "content": "<|im_end|>",\n'),
        ('    "chat_template": "old",\n', f'    "chat_template": {json.dumps(TURN)},\n'),
    ]


def test_escaped_and_compact_json_stays_so() -> None:
    raw = '{"name": "\\u540d", "eos_token_id": 2}'
    found = carry_template(files(target(config=raw)), files(vector()))["config.json"]
    assert found == b'{"name": "\\u540d", "eos_token_id": 13}'


def test_files_that_are_right_already_are_not_written() -> None:
    same = target(
        tokenizer_config={"eos_token": "<|im_end|>", "chat_template": TURN},
        generation={"eos_token_id": 13},
        config={"eos_token_id": 13},
    )
    assert carried(same, vector()) == {}


def test_several_end_marks_are_translated_each() -> None:
    found = carried(target(), vector(generation={"eos_token_id": [8, 9]}, config={}))
    assert found["generation_config.json"]["eos_token_id"] == [13, 12]
    assert found["config.json"]["eos_token_id"] == [13, 12]
    one = vector(generation={"eos_token_id": [8, 9]}, config={"eos_token_id": 9})
    found = carried(target(), one)
    assert found["generation_config.json"]["eos_token_id"] == [13, 12]
    assert found["config.json"]["eos_token_id"] == 12


@pytest.mark.parametrize("numbers", [None, {}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_without_numbers_the_end_mark_of_the_tokenizer_counts(numbers: Any) -> None:
    found = carried(target(), vector(generation=numbers))
    assert found["generation_config.json"]["eos_token_id"] == 13
    assert found["config.json"]["eos_token_id"] == 13


def test_an_adapter_brings_its_end_mark_too() -> None:
    only = {"tokenizer_config.json": {"eos_token": {"content": "<|eot|>"}, "chat_template": TURN}}
    found = carried(target(special={"eos_token": {"content": "</s>", "lstrip": True}}), only)
    assert found["config.json"]["eos_token_id"] == 12
    assert found["tokenizer_config.json"]["eos_token"] == "<|eot|>"
    assert found["special_tokens_map.json"] == {"eos_token": {"content": "<|eot|>", "lstrip": True}}


def test_without_generation_config_the_model_config_ends_generation() -> None:
    both = vector(generation={"eos_token_id": [8, 9]}, config={"eos_token_id": 9})
    found = carried(target(generation=None, config={"model_type": "x"}), both)
    assert found["config.json"] == {"model_type": "x", "eos_token_id": [13, 12]}
    assert "generation_config.json" not in found


def test_a_model_that_sees_has_its_end_mark_one_level_down() -> None:
    config = {"text_config": {"a": 1, "eos_token_id": 2}}
    found = carried(target(config=config), vector())
    assert found["config.json"] == {"text_config": {"a": 1, "eos_token_id": 13}}


def test_a_vector_without_end_mark_leaves_the_targets() -> None:
    bare = vector(tokenizer_config={"chat_template": TURN}, generation=None)
    found = carried(target(), bare)
    assert list(found) == ["tokenizer_config.json"]
    assert found["tokenizer_config.json"]["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("on", "of", "wanted"),
    [
        ({}, {}, {"field": TURN}),
        ({"jinja": OLD}, {}, {"jinja": TURN}),
        ({"jinja": OLD, "template": OLD}, {}, {"jinja": TURN, "field": TURN}),
        ({"template": OLD}, {"jinja": TURN, "template": None}, {"jinja": TURN, "field": TURN}),
        ({}, {"jinja": TURN, "template": None}, {"jinja": TURN}),
        ({}, {"jinja": TURN, "template": OLD}, {"jinja": TURN}),
        ({"processor": {"chat_template": OLD}}, {}, {"field": TURN, "processor": TURN}),
        ({"tools": OLD}, {}, {"jinja": TURN, "tools": TURN}),
        (
            {"tools": OLD, "jinja": OLD},
            {"tools": "vector's tools", "jinja": TURN, "rag": "rag", "template": None},
            {"jinja": TURN, "tools": "vector's tools", "rag": "rag"},
        ),
        (
            {},
            {"processor": {"chat_template": TURN}, "template": None},
            {"field": TURN},
        ),
    ],
)
def test_no_reader_finds_a_stale_template(
    on: dict[str, Any], of: dict[str, Any], wanted: dict[str, Any]
) -> None:
    def config(given: dict[str, Any], default: str | None) -> dict[str, Any]:
        template = given.pop("template", default)
        return {"eos_token": "<|im_end|>", **({"chat_template": template} if template else {})}

    on, of = dict(on), dict(of)
    on["tokenizer_config"], of["tokenizer_config"] = config(on, None), config(of, TURN)
    found = carried(target(**on), vector(**of))
    seen = {
        "jinja": found.get("chat_template.jinja"),
        "tools": found.get("additional_chat_templates/tools.jinja"),
        "rag": found.get("additional_chat_templates/rag.jinja"),
        "field": found.get("tokenizer_config.json", {}).get("chat_template"),
        "processor": found.get("chat_template.json", {}).get("chat_template"),
    }
    assert {place: text for place, text in seen.items() if text is not None} == wanted


def test_named_templates_of_the_older_form() -> None:
    several = [{"name": "default", "template": TURN}, {"name": "tools", "template": "t"}]
    named = vector(tokenizer_config={"eos_token": "</s>", "chat_template": several})
    assert carried(target(), named)["tokenizer_config.json"]["chat_template"] == several
    found = carried(target(jinja=OLD), named)
    assert found["chat_template.jinja"] == TURN
    assert found["additional_chat_templates/tools.jinja"] == "t"


def test_a_target_without_tokenizer_config_gets_a_file() -> None:
    found = carried(target(tokenizer_config=None), vector())
    assert found["chat_template.jinja"] == TURN
    assert "tokenizer_config.json" not in found


def test_an_end_mark_that_the_target_lacks_is_named() -> None:
    plain = target(tokenizer=bpe([*LLAMA, *CHINESE], {"<|eot|>": 12}))
    sentence = r"^The turns of chat end with `<\|im_end\|>`, which the target does not have\. Add"
    with pytest.raises(MergeError, match=sentence):
        carried(plain, vector())
    with pytest.raises(MergeError, match=sentence):
        carried(plain, vector(tokenizer_config={"chat_template": TURN}))
    with pytest.raises(MergeError, match=sentence):
        carried(plain, vector(generation={"eos_token_id": [9, 8]}))


@pytest.mark.parametrize("number", [10, -1, True, "8", {}, [[8]]])
def test_an_end_mark_that_is_no_token_is_named(number: Any) -> None:
    with pytest.raises(MergeError, match=r"^The end token .* of chat is none of its tokens"):
        carried(target(), vector(generation={"eos_token_id": number}))


@pytest.mark.parametrize("template", [None, "", [], [{"name": "rag", "template": "x"}]])
def test_a_vector_without_template_is_told_so(template: Any) -> None:
    with pytest.raises(MergeError, match=r"^There is no chat template in chat\. Keep"):
        carried(target(), vector(tokenizer_config={"chat_template": template}))


@pytest.mark.parametrize(
    "template",
    [
        {"default": "x"},
        7,
        ["x"],
        [{"name": "default"}],
        [{"name": "default", "template": "x"}, {"name": "../../secrets", "template": "x"}],
        [{"name": ".hidden", "template": "x"}],
        [{"name": "a\n", "template": "x"}],
    ],
)
def test_an_odd_template_is_refused(template: Any) -> None:
    """A name becomes a path, so it may not lead anywhere else."""
    with pytest.raises(TensorFileError, match=r"^The chat_template of tokenizer_config\.json is"):
        carried(target(), vector(tokenizer_config={"chat_template": template}))


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(TensorFileError, match=r"^chat_template\.jinja is not a chat template"):
        carried(target(), vector(jinja=b"\xff"))


def test_where_the_template_lies() -> None:
    assert template_files(files(vector(jinja=TURN, rag="x", special={"eos_token": None}))) == {
        "additional_chat_templates/rag.jinja": (),
        "chat_template.jinja": (),
        "tokenizer_config.json": ("chat_template", "eos_token"),
        "generation_config.json": ("eos_token_id",),
    }
    assert template_files(files({"config.json": {"eos_token_id": 0}})) == {
        "config.json": ("eos_token_id",)
    }
    assert template_files({}) == {}


def test_templates_by_name() -> None:
    assert chat_templates(files(vector(rag="x", jinja="y"))) == {"default": "y", "rag": "x"}
    assert chat_templates(files(vector())) == {"default": TURN}
    assert chat_templates({}) == {}
