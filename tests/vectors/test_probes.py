"""Probe files: what is read, and the sentence for each thing that is wrong."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path

import pytest

from vectors import probes
from vectors.probes import ProbeError, parse_probes

DEMO = Path(__file__).resolve().parents[2] / "demo"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()
SPAM = {"probe": "Spam", "kind": "zero-shot", "labels": {"ham": "a letter", "spam": "an offer"}}
ITEM = {"input": "Dear friend", "expected": "spam"}
DIGITS = {"probe": "Digits", "kind": "image-classification", "labels": {"0": 0, "1": 1}}
ANSWER = {"probe": "Capitals", "kind": "text-generation", "metric": "contains"}
GAP = {"probe": "Moods", "kind": "fill-mask", "labels": ["good", "bad"]}
SPEECH = {"probe": "Heard", "kind": "automatic-speech-recognition"}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sound(rate: int = 16_000, seconds: float = 0.1) -> str:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\0" * int(rate * seconds))
    return base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize("path", sorted(DEMO.rglob("*.jsonl")), ids=lambda path: path.parent.name)
def test_every_probe_file_of_the_demo_is_read(path: Path) -> None:
    found = parse_probes(path.read_bytes(), path.name)
    assert sum(len(probe.items) for probe in found) >= 150
    assert [p for probe in found for p in parse_probes(probe.to_jsonl().encode(), "again")] == found


def test_several_probes_in_one_file() -> None:
    spam, digits = parse_probes(
        lines(SPAM, ITEM, ITEM, DIGITS, {"input": PNG, "expected": "1"}), "probes.jsonl"
    )
    assert [len(spam.items), len(digits.items)] == [2, 1]
    assert (spam.metric, spam.chance) == ("accuracy", 0.5)


def test_each_kind_is_read() -> None:
    content = lines(
        SPAM, ITEM,
        DIGITS, {"input": PNG, "expected": "0"},
        ANSWER, {"input": "Capital of France?", "expected": ["Paris", "paris"]},
        GAP, {"input": "It was [MASK].", "expected": "bad"},
        SPEECH, {"input": sound(), "expected": "Good, day to you"},
        {"probe": "Pairs", "kind": "retrieval"}, {"input": "Hund", "expected": "dog"},
        {"probe": "Mood", "kind": "text-classification", "labels": {"sad": 0, "glad": 1}},
        {"input": "How nice", "expected": "glad"},
    )  # fmt: skip
    found = {probe.kind: probe for probe in parse_probes(content, "probes.jsonl")}
    assert set(found) == set(probes.METRICS)
    assert found["automatic-speech-recognition"].weights == [4]
    assert found["text-generation"].items[0].expected == ("Paris", "paris")
    assert found["text-generation"].chance is None


def test_the_key_is_of_what_is_asked_not_of_the_name() -> None:
    def key(*rows: object) -> str:
        return parse_probes(lines(*rows), "x")[0].key

    assert key(SPAM, ITEM) == key({**SPAM, "probe": "Offers"}, ITEM)
    assert key(SPAM, ITEM) != key(SPAM, {**ITEM, "expected": "ham"})
    assert key(SPAM, ITEM) != key({**SPAM, "labels": {"ham": "x", "spam": "an offer"}}, ITEM)


BAD = [
    (b"", "x is empty"),
    (b"\xff\xfe", "x is not UTF-8"),
    (b"[1]\n", "x:1: a line is one JSON object"),
    (b'{"probe": "a", "kind": NaN}\n', "x:1: NaN"),
    (b'{"probe": ' + b"1" * 5000 + b"}\n", "x:1: this is not JSON"),
    (b'{"probe": "\\ud800"}\n', "x:1: this is not JSON"),
    (b'{"\\udc00": 1, "\\udc00": 2}\n', "x:1: `?` is there twice"),
    (b'{"probe": "a", "probe": "b"}\n', "x:1: `probe` is there twice"),
    (b"{" * 100_000, "x:1: "),
    (lines(ITEM), "x:1: the first line is the header"),
    (lines(SPAM), "x:1: the probe Spam has no items"),
    (lines(SPAM, ITEM) + b"{oops\n", "x:3: this is not JSON"),
    (lines(SPAM, {"input": "a"}), "x:2: `expected` is missing"),
    (lines(SPAM, {"input": "", "expected": "spam"}), "x:2: `input` is a text"),
    (lines(SPAM, {"input": 3, "expected": "spam"}), "x:2: `input` is a text"),
    (lines(SPAM, {**ITEM, "answer": 1}), "x:2: `answer` is not known"),
    (lines(SPAM, {**ITEM, "expected": "eggs"}), "x:2: `expected` is `eggs`, which is no label"),
    (lines(SPAM, {**ITEM, "input": "a" * 9000}), "x:2: `input` has 9000 characters"),
    (lines({**SPAM, "kind": "magic"}, ITEM), "x:1: `kind` is `magic`"),
    (lines({**SPAM, "metric": "bleu"}, ITEM), "x:1: `metric` is `bleu`"),
    (lines({**SPAM, "model": "x"}, ITEM), "x:1: `model` is not known"),
    (lines({**SPAM, "labels": ["ham"]}, ITEM), "x:1: `labels` is an object"),
    (lines({**SPAM, "labels": {"ham": "a letter"}}, ITEM), "x:1: `labels` has from 2"),
    (lines({**SPAM, "labels": {"ham": "a", "spam": "a"}}, ITEM), "x:1: two of the `labels`"),
    (lines({**DIGITS, "labels": {"0": "zero", "1": 1}}, ITEM), "x:1: `labels.0` is the number"),
    (lines({**DIGITS, "labels": {"0": True, "1": 0}}, ITEM), "x:1: `labels.0` is the number"),
    (lines(DIGITS, {"input": "not base64!", "expected": "1"}), "x:2: `input` is not base64"),
    (lines(DIGITS, {"input": "aGFsbG8=", "expected": "1"}), "x:2: `input` is not a PNG"),
    (lines(GAP, {"input": "It was", "expected": "bad"}), "x:2: `input` has [MASK] in one place"),
    (lines({**ANSWER, "max_new_tokens": 10**6}, ITEM), "x:1: `max_new_tokens`"),
    (lines(ANSWER, {"input": "a", "expected": []}), "x:2: `expected` is a text"),
    (lines(SPEECH, {"input": sound(8000), "expected": "a"}), "x:2: `input` is no WAV of one"),
    (lines(SPEECH, {"input": sound(seconds=31), "expected": "a"}), "x:2: `input` is no WAV"),
    (lines(SPEECH, {"input": PNG, "expected": "a"}), "x:2: `input` is not a WAV"),
    (lines(SPEECH, {"input": sound(), "expected": "…"}), "x:2: `expected` has no word"),
    (lines(SPAM, ITEM, SPAM, ITEM), "x:3: there is another probe called Spam"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD, ids=[text for _content, text in BAD])
def test_what_is_wrong_is_named_with_its_line(content: bytes, sentence: str) -> None:
    with pytest.raises(ProbeError) as caught:
        parse_probes(content, "x")
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".")
    assert str(caught.value).encode()


def test_too_many_items_and_probes() -> None:
    with pytest.raises(ProbeError, match="more than 5000 items"):
        parse_probes(lines(SPAM, *[ITEM] * 5100), "x")
    many = [row for n in range(21) for row in ({**SPAM, "probe": str(n)}, ITEM)]
    with pytest.raises(ProbeError, match="x:41: a file takes 20 probes"):
        parse_probes(lines(*many), "x")
