"""Tokens and their rows, out of every kind of tokenizer file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from merging.engine.errors import MergeError
from merging.engine.tokens import read_tokens
from vectors.tensorfile.errors import Problem, TensorFileError

from .token_files import CHINESE, LLAMA, bpe, decoder, files, sentencepiece, unigram


def ids(contents: dict[str, Any]) -> dict[str, int]:
    return dict(read_tokens(files(contents)).ids)


def rows(*tokens: str) -> dict[str, int]:
    return {token: row for row, token in enumerate(tokens)}


WORDPIECE = {
    "version": "1.0",
    "added_tokens": [],
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": rows("[PAD]", "[UNK]", "good", "##ness"),
    },
}


@pytest.mark.parametrize(
    "document",
    [
        bpe([*LLAMA, *CHINESE], {"<unk>": 0, "</s>": 2, "[PAD]": 12, "<|im_end|>": 13}),
        bpe([], {"<s>": 0, "</s>": 1}),
        unigram(["<pad>", "</s>", "▁a", "b"], {"<extra_id_1>": 4, "<extra_id_0>": 5}),
        unigram(["<pad>", "twice", "▁a", "twice"]),
        WORDPIECE,
    ],
    ids=["bpe", "no tokens but added ones", "unigram", "a piece twice", "wordpiece"],
)
def test_tokenizer_json_is_read_as_its_library_reads_it(document: dict[str, Any]) -> None:
    wanted = Tokenizer.from_str(json.dumps(document)).get_vocab(with_added_tokens=True)
    assert ids({"tokenizer.json": document}) == wanted


def test_a_table_without_a_type_is_told_by_its_form() -> None:
    document = {"model": {"vocab": {"a": 1, "b": 0}}}
    assert ids({"tokenizer.json": document}) == {"a": 1, "b": 0}


def test_added_tokens_cannot_move_a_token_of_the_model() -> None:
    document = bpe(["a", "b"], {"b": 7, "c": 2})
    assert ids({"tokenizer.json": document}) == rows("a", "b", "c")


def test_the_configuration_only_fills_gaps_of_tokenizer_json() -> None:
    config = {"added_tokens_decoder": decoder({"a": 5, "other": 1, "[PAD]": 2})}
    contents = {"tokenizer.json": bpe(["a", "b"]), "tokenizer_config.json": config}
    assert ids(contents) == rows("a", "b", "[PAD]")


def test_tokenizer_json_goes_before_older_files() -> None:
    assert ids({"tokenizer.json": bpe(["a"]), "vocab.txt": "x\ny\n"}) == {"a": 0}


def test_vocab_json_with_added_tokens() -> None:
    contents = {
        "vocab.json": rows("!", "Ġthe"),
        "added_tokens.json": {"<|im_start|>": 2, "<|im_end|>": 3},
        "tokenizer_config.json": {"added_tokens_decoder": decoder({"<|im_end|>": 3, "<|x|>": 4})},
    }
    assert ids(contents) == rows("!", "Ġthe", "<|im_start|>", "<|im_end|>", "<|x|>")


def test_vocab_txt_is_lines_and_nothing_else() -> None:
    """A line separator, a no-break space and a carriage return can be parts of tokens."""
    text = "[PAD]\n\u2028\n\x85\n a\n\n##b\nlast"
    wanted = {"[PAD]": 0, "\u2028": 1, "\x85": 2, " a": 3, "##b": 5, "last": 6}
    assert ids({"vocab.txt": text}) == wanted
    assert ids({"vocab.txt": "a\r\nb\r\n"}) == rows("a", "b")


def test_a_line_that_comes_twice_is_the_last_one() -> None:
    assert ids({"vocab.txt": "a\nb\na\n"}) == {"b": 1, "a": 2}


def test_a_reserved_token_can_be_renamed() -> None:
    config = {"added_tokens_decoder": decoder({"<|im_end|>": 1, "b": 0})}
    contents = {"vocab.txt": "[unused0]\n[unused1]\nb\n", "tokenizer_config.json": config}
    assert ids(contents) == {"b": 0, "<|im_end|>": 1}


@pytest.mark.parametrize("path", ["tokenizer.model", "spiece.model"])
def test_a_sentencepiece_model_alone(path: str) -> None:
    contents = {path: sentencepiece([*LLAMA, *CHINESE]), "added_tokens.json": {"[PAD]": 12}}
    assert ids(contents) == rows(*LLAMA, *CHINESE, "[PAD]")


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"tokenizer_config.json": {"added_tokens_decoder": decoder({"a": 0})}},
        {"sentencepiece.bpe.model": sentencepiece(LLAMA)},
        {
            "spiece.model": sentencepiece(LLAMA),
            "tokenizer_config.json": {"tokenizer_class": "PegasusTokenizerFast"},
        },
    ],
)
def test_where_rows_cannot_be_known_the_way_out_is_named(contents: dict[str, Any]) -> None:
    """XLM-R and Pegasus put tokens before the pieces, so places are no rows."""
    with pytest.raises(MergeError, match=r"^The tokens of cat cannot be told.*tokenizer\.json"):
        read_tokens(files(contents), label="cat")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"IQ== 0\nIg== 1\n",  # tiktoken's format under the same name
        sentencepiece(LLAMA)[:-3],
        sentencepiece(LLAMA) + b"\x0b",
        b"\x0a\x03\x0a\x01\xff",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x12\x00",
    ],
)
def test_what_is_no_sentencepiece_model_is_refused(raw: bytes) -> None:
    with pytest.raises(TensorFileError, match=r"is not a SentencePiece model: add tokenizer\.json"):
        read_tokens(files({"tokenizer.model": raw}))


@pytest.mark.parametrize(
    "contents",
    [
        {"tokenizer.json": b"{"},
        {"tokenizer.json": b"[]"},
        {"tokenizer.json": {}},
        {"tokenizer.json": {"model": []}},
        {"tokenizer.json": {"model": {"vocab": "a b c"}}},
        {"tokenizer.json": {"model": {"vocab": {"a": "0"}}}},
        {"tokenizer.json": {"model": {"vocab": {"a": True}}}},
        {"tokenizer.json": {"model": {"vocab": {"a": -1}}}},
        {"tokenizer.json": {"model": {"vocab": {"a": 0.0}}}},
        {"tokenizer.json": {"model": {"vocab": {"a": None}}}},
        {"tokenizer.json": {"model": {"vocab": [["a", 0], []]}}},
        {"tokenizer.json": {"model": {"vocab": [[["a"], 0]]}}},
        {"tokenizer.json": {"model": {"vocab": {}}, "added_tokens": {"a": 0}}},
        {"tokenizer.json": {"model": {"vocab": {}}, "added_tokens": ["a"]}},
        {"tokenizer.json": {"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}},
        {"tokenizer.json": {"model": {"vocab": {}}, "added_tokens": [{"content": [], "id": 0}]}},
        {"vocab.json": {"eng": {"a": 0}}},
        {"vocab.txt": b"\xff\n"},
        {"vocab.txt": "a\n", "added_tokens.json": {"b": "1"}},
        {"vocab.txt": "a\n", "tokenizer_config.json": {"added_tokens_decoder": [1]}},
        {"vocab.txt": "a\n", "tokenizer_config.json": {"added_tokens_decoder": {"x": "b"}}},
        {"vocab.txt": "a\n", "tokenizer_config.json": {"added_tokens_decoder": {"1": {}}}},
        {"vocab.txt": "a\n", "tokenizer_config.json": {"added_tokens_decoder": {"9" * 5000: "b"}}},
    ],
)
def test_a_broken_file_is_named(contents: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        read_tokens(files(contents))
    assert list(contents)[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1, "c": 1}}}),
        ("tokenizer.json", bpe(["a", "b"], {"c": 1})),
        ("vocab.json", {"a": 0, "b": 1, "c": 1}),
    ],
)
def test_one_row_of_two_tokens_is_refused(path: str, content: Any) -> None:
    with pytest.raises(TensorFileError, match=rf"{path} gives row 1 to two tokens, `[bc]` and"):
        read_tokens(files({path: content}))


@pytest.mark.parametrize(
    ("tokens", "spelling"),
    [
        (LLAMA, "SentencePiece"),
        (["!", "the", "Ġthe", "Ġa", "##"], "byte-level BPE"),
        (["[PAD]", "good", "##ness"], "WordPiece"),
        (["a", "b"], ""),
        (["▁", *map(str, range(200))], ""),
        ([], ""),
    ],
)
def test_the_spelling_is_told_by_the_tokens(tokens: list[str], spelling: str) -> None:
    assert read_tokens(files({"vocab.json": rows(*tokens)})).spelling == spelling


def test_tokens_by_row() -> None:
    assert read_tokens(files({"vocab.txt": "a\n\nb"})).tokens == {0: "a", 2: "b"}
