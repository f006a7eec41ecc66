"""Vocabulary rows matched by token: what is merged, what stays, what is taken over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from merging.engine.errors import MergeError
from merging.engine.tokens import Vocabulary, read_tokens
from merging.engine.vocabulary import (
    LISTED_TOKENS,
    RowMap,
    copy_rows,
    delta_rows,
    factor_rows,
    map_rows,
    model_rows,
    row_pairs,
    stored_rows,
)
from vectors.tensorfile.checkpoint import Checkpoint, Tensor, TensorLike
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.lora import LowRank
from vectors.tensorfile.source import MemorySource

from .token_files import CHINESE, LLAMA, bpe, files, unigram

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

# LLaMA itself; a chat model that added an end mark and is padded; and a Chinese LLaMA, whose words
# lie where the chat model has its marks. Both also know [PAD], each elsewhere.
BASE = read_tokens(files({"tokenizer.json": bpe(LLAMA)}))
CHAT = read_tokens(files({"tokenizer.json": bpe(LLAMA, {"<|im_end|>": 8, "[PAD]": 9})}))
TARGET = read_tokens(files({"tokenizer.json": bpe([*LLAMA, *CHINESE], {"[PAD]": 12})}))
BASE_ROWS, CHAT_ROWS, TARGET_ROWS = 8, 16, 13


def vocabulary(*tokens: str) -> Vocabulary:
    return Vocabulary({token: row for row, token in enumerate(tokens)})


def tensor(values: torch.Tensor, name: str = "embed.weight") -> Tensor:
    source = MemorySource(save({name: values}), "model.safetensors")
    return Checkpoint.open({"model.safetensors": source}).tensors[name]


def matrix(rows: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator).to(dtype)


BASE_VALUES, CHAT_VALUES, TARGET_VALUES = matrix(8, 0), matrix(16, 1), matrix(13, 2)


def values_of(view: TensorLike) -> torch.Tensor:
    buffer = bytearray(view.nbytes)
    view.read_into(0, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=TORCH[view.dtype]).reshape(view.shape)


def the_maps() -> tuple[RowMap, RowMap]:
    """From the Chinese target to the chat model and to the foundation."""
    return (
        map_rows(TARGET, CHAT, TARGET_ROWS, CHAT_ROWS),
        map_rows(TARGET, BASE, TARGET_ROWS, BASE_ROWS),
    )


def test_rows_follow_the_token_not_the_place() -> None:
    to_chat, to_base = the_maps()
    assert to_chat.rows.tolist() == [*range(8), -1, -1, -1, -1, 9]
    assert to_base.rows.tolist() == [*range(8), -1, -1, -1, -1, -1]
    assert to_chat.as_data() == {
        "shared": 9,
        "only_target": {"count": 4, "tokens": CHINESE},
        "only_source": {"count": 1, "tokens": ["<|im_end|>"]},
    }
    assert not to_chat.by_place


def test_wordpiece_in_another_order() -> None:
    target = read_tokens(files({"vocab.txt": "[PAD]\n[UNK]\ngood\n##ness\n"}))
    source = read_tokens(files({"vocab.txt": "[UNK]\n##ness\n[PAD]\nmore\n"}))
    assert map_rows(target, source, 4, 4).rows.tolist() == [2, 0, -1, 1]


def test_padding_is_nobodys() -> None:
    """T5 has 32 100 tokens and 32 128 rows: the rest are numbers that nothing ever trained."""
    tokens = read_tokens(files({"tokenizer.json": unigram(["<pad>", "</s>", "▁a"])}))
    found = map_rows(tokens, tokens, 8, 6)
    assert found.rows.tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert (found.shared, found.only_target_count, found.only_source_count) == (3, 0, 0)


def test_a_token_without_a_row_counts_as_missing() -> None:
    """[PAD] is often added to a tokenizer whose model was never resized."""
    target, source = vocabulary("a", "b", "[PAD]"), vocabulary("a", "[PAD]", "b")
    found = map_rows(target, source, 3, 2)
    assert found.rows.tolist() == [0, -1, 1]
    assert (found.shared, found.only_target, found.only_source) == (2, ("b",), ())
    found = map_rows(target, source, 2, 3)
    assert found.rows.tolist() == [0, 2]
    assert (found.shared, found.only_target, found.only_source) == (2, (), ("[PAD]",))


def test_long_lists_are_cut_and_their_counts_are_not() -> None:
    many = vocabulary(*(f"t{number}" for number in range(LISTED_TOKENS + 7)))
    found = map_rows(many, vocabulary("x"), len(many.ids), 1)
    assert found.only_target == tuple(f"t{number}" for number in range(LISTED_TOKENS))
    assert found.only_target_count == LISTED_TOKENS + 7
    assert (found.only_source, found.only_source_count) == (("x",), 1)


@pytest.mark.parametrize(
    ("source", "rows", "wanted"),
    [
        (("a", "b"), (4, 4), True),  # padding too then lies where it should
        (("a", "b"), (4, 6), False),
        (("b", "a"), (4, 4), False),
        (("a", "b", "c"), (4, 4), False),
        (("a",), (4, 4), False),
        (("a", "b", "", "", "[PAD]"), (4, 4), False),
    ],
)
def test_maps_that_are_not_needed(
    source: tuple[str, ...], rows: tuple[int, int], wanted: bool
) -> None:
    assert map_rows(vocabulary("a", "b"), vocabulary(*source), *rows).by_place is wanted


def test_other_spellings_are_refused() -> None:
    """`é` is a byte to one and a letter to the other: equal strings would be merged wrongly."""
    byte_level = vocabulary("Ġthe", "é")
    with pytest.raises(MergeError, match=r"SentencePiece, those of qwen as byte-level BPE.*Keep"):
        map_rows(TARGET, byte_level, TARGET_ROWS, 2, label="qwen")
    unknown = vocabulary("a", "b")
    assert map_rows(TARGET, unknown, TARGET_ROWS, 2).shared == 0


def test_a_delta_is_where_both_have_the_token() -> None:
    tuned, base = delta_rows(
        tensor(TARGET_VALUES), tensor(CHAT_VALUES), tensor(BASE_VALUES), *the_maps()
    )
    assert tuned.shape == base.shape == (13, 4)
    assert tuned.name == "embed.weight"
    delta = values_of(tuned).float() - values_of(base).float()
    assert delta[:8].equal(CHAT_VALUES[:8].float() - BASE_VALUES.float())
    assert delta[8:].equal(torch.zeros(5, 4))  # Chinese words; [PAD], which the base lacks
    assert values_of(tuned)[8:].equal(TARGET_VALUES[8:])


def test_a_special_row_is_the_fine_tunes() -> None:
    """Chat Vector's special_tokens_map: the row comes from the chat model, not from its base."""
    pairs = row_pairs({"[PAD]": "<|im_end|>", "s": "s"}, TARGET, CHAT, TARGET_ROWS, CHAT_ROWS)
    target = tensor(TARGET_VALUES)
    tuned, base = delta_rows(target, tensor(CHAT_VALUES), tensor(BASE_VALUES), *the_maps(), pairs)
    delta = values_of(tuned).float() - values_of(base).float()
    at_one = (TARGET_VALUES.float() + delta).bfloat16()
    assert at_one[12].equal(CHAT_VALUES[8])
    assert at_one[7].equal(CHAT_VALUES[7])
    assert values_of(base)[7].equal(TARGET_VALUES[7])
    assert delta[:7].equal(CHAT_VALUES[:7].float() - BASE_VALUES[:7].float())


def test_an_average_leaves_tokens_that_only_the_target_has() -> None:
    """DogeRM: rows of common tokens are averaged, rows of others are copied."""
    to_chat, _to_base = the_maps()
    view = model_rows(tensor(TARGET_VALUES), tensor(CHAT_VALUES), to_chat)
    average = (0.5 * TARGET_VALUES.double() + 0.5 * values_of(view).double()).bfloat16()
    common = [*range(8), 12]
    chat = CHAT_VALUES[[*range(8), 9]]
    assert average[common].equal((0.5 * TARGET_VALUES[common].double() + 0.5 * chat).bfloat16())
    assert average[8:12].equal(TARGET_VALUES[8:12])


def test_a_special_row_of_an_average() -> None:
    to_chat, _to_base = the_maps()
    view = model_rows(tensor(TARGET_VALUES), tensor(CHAT_VALUES), to_chat, {9: 8})
    assert values_of(view)[9].equal(CHAT_VALUES[8])
    assert to_chat.rows[9] == -1  # the map itself is as it was


def test_a_stored_delta_is_zero_elsewhere() -> None:
    to_chat, to_base = the_maps()
    view = stored_rows(tensor(CHAT_VALUES, "delta"), to_chat, to_base)
    assert view.shape == (13, 4)
    wanted = torch.cat([CHAT_VALUES[:8], torch.zeros(5, 4).bfloat16()])
    assert values_of(view).equal(wanted)


def test_biases_are_mapped_like_rows() -> None:
    to_chat, to_base = the_maps()
    chat, base, target = (torch.arange(n).float() * s for n, s in ((16, 1), (8, 2), (13, 100)))
    wanted = [*range(8), *range(800, 1201, 100)]
    for shape in ((-1,), (1, -1)):
        views = delta_rows(
            *(tensor(each.reshape(shape)) for each in (target, chat, base)), to_chat, to_base
        )
        assert values_of(views[0]).flatten().tolist() == wanted
        assert views[0].shape == target.reshape(shape).shape
        stored = stored_rows(tensor(chat.reshape(shape)), to_chat, to_base)
        assert values_of(stored).flatten().tolist() == [*range(8), *[0] * 5]
        assert stored.shape == target.reshape(shape).shape


def test_types_that_differ_are_widened() -> None:
    to_chat, to_base = the_maps()
    tuned, base = delta_rows(
        tensor(TARGET_VALUES), tensor(matrix(16, 1, torch.float16)), tensor(BASE_VALUES),
        to_chat, to_base,
    )  # fmt: skip
    assert (tuned.dtype, base.dtype) == ("F32", "BF16")
    assert values_of(tuned)[8:].equal(TARGET_VALUES[8:].float())
    assert values_of(tuned)[:8].equal(matrix(16, 1, torch.float16)[:8].float())


def test_rows_are_grafted_as_they_are() -> None:
    wanted_rows = {"</s>": "</s>", "▁model": 5, "[PAD]": "<|im_end|>", 8: 15}
    view = copy_rows(tensor(TARGET_VALUES), tensor(CHAT_VALUES), wanted_rows, TARGET, CHAT)
    wanted = TARGET_VALUES.clone()
    wanted[[2, 5, 12, 8]] = CHAT_VALUES[[2, 5, 8, 15]]
    assert (view.name, view.dtype, view.shape) == ("embed.weight", "BF16", (13, 4))
    assert values_of(view).equal(wanted)


def test_a_graft_onto_a_row_of_biases() -> None:
    names = vocabulary("a", "b"), vocabulary("x", "b")
    view = copy_rows(tensor(torch.zeros(1, 3)), tensor(torch.ones(1, 5)), ["b"], *names)
    assert values_of(view).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_lora_of_an_embedding_is_mapped(transposed: bool) -> None:
    """peft keeps the vocabulary of an embedding's LoRA in the columns of its first factor."""
    to_chat, to_base = the_maps()
    left, right = matrix(16, 5)[:, :2], matrix(2, 6)
    stored = left.T.contiguous() if transposed else left.contiguous()
    factors = LowRank(tensor(stored), tensor(right), transposed, 2, 0.5, (16, 4))
    found = factor_rows(factors, to_chat, to_base)
    wanted = torch.cat([left[:8], torch.zeros(5, 2).bfloat16()])
    values = values_of(found.left)
    assert (values.T if transposed else values).equal(wanted)
    assert (found.shape, found.rank, found.scale) == ((13, 4), 2, 0.5)
    with pytest.raises(MergeError, match="has 16 rows where the vocabulary has 8"):
        factor_rows(factors, to_base, to_base)


@settings(max_examples=100, deadline=None)
@given(
    target=st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
    tuned=st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
    base=st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
    padding=st.tuples(*[st.integers(0, 3)] * 3),
)
def test_each_row_by_its_definition(
    target: list[str], tuned: list[str], base: list[str], padding: tuple[int, int, int]
) -> None:
    sides = [target, tuned, base]
    tables = [vocabulary(*tokens) for tokens in sides]
    values = [
        matrix(len(tokens) + more, seed)
        for seed, (tokens, more) in enumerate(zip(sides, padding, strict=True))
    ]
    maps = [map_rows(tables[0], tables[i], len(values[0]), len(values[i])) for i in (1, 2)]
    deltas = delta_rows(*map(tensor, values), *maps)
    model = model_rows(tensor(values[0]), tensor(values[1]), maps[0])
    for row in range(len(values[0])):
        token = target[row] if row < len(target) else None
        own = values[0][row]
        theirs = values[1][tuned.index(token)] if token in tuned else own
        assert values_of(model)[row].equal(theirs)
        found = values_of(deltas[0])[row].float() - values_of(deltas[1])[row].float()
        if token in tuned and token in base:
            assert found.equal(theirs.float() - values[2][base.index(token)].float())
        else:
            assert found.equal(torch.zeros(4))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"模": "</s>"}, "There is no row for the token `模` in the target (13 rows)."),
        ({"</s>": "能力"}, "There is no row for the token `能力` in chat (16 rows)."),
        ({13: 0}, "There is no row for the token `13` in the target (13 rows)."),
        ({0: 16}, "There is no row for the token `16` in chat (16 rows)."),
        ({0: -1}, "There is no row for the token `-1` in chat (16 rows)."),
        ({True: 1}, "There is no row for the token `True` in the target (13 rows)."),
        (["[PAD]", "能力"], "There is no row for the token `能力` in chat (16 rows)."),
        ({"</s>": 3, 2: 4}, "Row 2 of the target is to be overwritten twice."),
    ],
)
def test_a_row_that_cannot_be_taken_is_named(wanted: dict[str | int, str], sentence: str) -> None:
    with pytest.raises(MergeError) as caught:
        row_pairs(wanted, TARGET, CHAT, TARGET_ROWS, CHAT_ROWS, label="chat")
    assert str(caught.value) == sentence


def test_a_token_beyond_the_matrix_cannot_be_taken() -> None:
    with pytest.raises(MergeError, match=r"`\[PAD\]` in the target \(12 rows\)"):
        row_pairs(["[PAD]"], TARGET, CHAT, 12, CHAT_ROWS)


def test_a_graft_names_the_row_that_is_not_there() -> None:
    target, source = tensor(TARGET_VALUES), tensor(CHAT_VALUES)
    for wanted, missing in (({13: 0}, "`13` in the target"), ({0: 16}, "`16` in chat")):
        with pytest.raises(MergeError, match=f"^There is no row for the token {missing}"):
            copy_rows(target, source, wanted, TARGET, CHAT, label="chat")
    with pytest.raises(TensorFileError, match=r"`embed.weight` is 13 × 4 and `wide` is 16 × 5"):
        copy_rows(target, tensor(torch.zeros(16, 5), "wide"), ["s"], TARGET, CHAT)


def test_a_map_of_another_matrix_is_refused() -> None:
    to_chat, to_base = the_maps()
    chat, base, target = tensor(CHAT_VALUES), tensor(BASE_VALUES), tensor(TARGET_VALUES)
    sentence = "`embed.weight` has 8 rows where the vocabulary has 16"
    with pytest.raises(MergeError, match=sentence):
        model_rows(target, base, to_chat)
    with pytest.raises(MergeError, match=sentence):
        stored_rows(base, to_chat, to_base)
    with pytest.raises(MergeError, match="has 16 rows where the vocabulary has 13"):
        model_rows(chat, chat, to_chat)


def test_rows_of_another_width_are_refused() -> None:
    to_chat, to_base = the_maps()
    wide = tensor(torch.zeros(16, 5), "wide")
    with pytest.raises(TensorFileError, match=r"`embed.weight` is 13 × 4 and `wide` is 16 × 5"):
        delta_rows(tensor(TARGET_VALUES), wide, tensor(BASE_VALUES), to_chat, to_base)


def test_the_common_beginning_is_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 32 000 must not cost 32 000 reads."""
    source = vocabulary(*(f"t{n}" for n in range(32_000)))
    target = vocabulary(*source.ids, *CHINESE)
    mapping = map_rows(target, source, 32_008, 32_000)
    view = model_rows(tensor(torch.zeros(32_008, 1)), tensor(torch.zeros(32_000, 1)), mapping)
    reads = []
    monkeypatch.setattr(MemorySource, "read_into", lambda *args: reads.append(len(args[2])))
    view.read_into(0, memoryview(bytearray(view.nbytes)))
    assert reads == [32_000 * 4, 8 * 4]
