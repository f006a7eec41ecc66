"""Probe files: the held-out items that come with a vector, read strictly.

A probe is a header line and the items after it; a file holds one probe or several. What each kind
of probe asks of a model is written down in `docs/probes.md`; here is what the lines look like:

    {"probe": "Spam", "kind": "zero-shot", "labels": {"ham": "a letter", "spam": "an offer"}}
    {"input": "Dear friend, …", "expected": "spam"}

Nothing is run here and nothing is guessed: an unknown key, a label that no header declares or a
picture that is none is refused with the line and the field named.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import wave
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vectors.cards import storable
from vectors.tensorfile.errors import Problem, _
from vectors.tensorfile.source import ByteSource, read_bytes

PROBES, CONTROLS = "probes.jsonl", "controls.jsonl"

MAX_BYTES = 16 << 20
MAX_PROBES = 20  # in one file
MAX_ITEMS = 5_000  # in one file
MAX_LABELS = 1_000
MAX_NAME = 80
MAX_TEXT = 8_000  # characters of an input, an answer or a description
MAX_MEDIA = 4 << 20  # characters of a picture or a sound
MAX_NEW_TOKENS = 512
SECONDS, RATE = 30, 16_000  # of a sound

ZERO_SHOT = "zero-shot"
RETRIEVAL = "retrieval"
CLASSIFICATION = "text-classification"
IMAGES = "image-classification"
FILL_MASK = "fill-mask"
GENERATION = "text-generation"
SPEECH = "automatic-speech-recognition"

# What an answer is measured by; the first is taken where the header names none.
METRICS: dict[str, tuple[str, ...]] = {
    ZERO_SHOT: ("accuracy",),
    RETRIEVAL: ("recall@1",),
    CLASSIFICATION: ("accuracy",),
    IMAGES: ("accuracy",),
    FILL_MASK: ("accuracy",),
    GENERATION: ("exact", "contains"),
    SPEECH: ("word accuracy",),
}
_DESCRIBED = {ZERO_SHOT}  # labels are texts
_NUMBERED = {CLASSIFICATION, IMAGES}  # labels are classes of the model's own head
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")


class ProbeError(Problem):
    """A probe file that cannot be used; the sentence names line and field."""


@dataclass(frozen=True)
class Item:
    """One thing that is asked, and the answers that count as right."""

    input: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """One ability as held-out items. ``labels`` maps a label to its description (zero-shot), to
    the class of the model's head (classification) or to itself (fill-mask)."""

    name: str
    kind: str
    metric: str
    items: tuple[Item, ...]
    labels: Mapping[str, str | int] = field(default_factory=dict)
    max_new_tokens: int = 0

    @property
    def chance(self) -> float | None:
        """What guessing gives; None where there is nothing to guess from."""
        if self.kind == RETRIEVAL:
            return 1 / len({item.expected[0] for item in self.items})
        return 1 / len(self.labels) if self.labels else None

    @property
    def weights(self) -> list[int]:
        """How much each item can score: one, or the words of a transcript."""
        if self.kind != SPEECH:
            return [1] * len(self.items)
        return [len(words_of(item.expected[0])) for item in self.items]

    @property
    def key(self) -> str:
        """SHA-256 of all that the result depends on; the name is not part of it."""
        return hashlib.sha256(self._text(name="").encode()).hexdigest()

    def to_jsonl(self) -> str:
        """The probe as a file of its own."""
        return self._text(name=self.name)

    def _text(self, name: str) -> str:
        head: dict[str, Any] = {"probe": name, "kind": self.kind, "metric": self.metric}
        if self.labels:
            head["labels"] = list(self.labels) if self.kind == FILL_MASK else dict(self.labels)
        if self.max_new_tokens:
            head["max_new_tokens"] = self.max_new_tokens
        lines = [head]
        for item in self.items:
            one = len(item.expected) == 1
            expected = item.expected[0] if one else list(item.expected)
            lines.append({"input": item.input, "expected": expected})
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def words_of(text: str) -> list[str]:
    """The words of a transcript: case and punctuation do not count."""
    kept = "".join(c if c.isalnum() or c in "'’" else " " for c in text.casefold())
    return kept.replace("’", "'").split()


def read_probes(source: ByteSource) -> list[Probe]:
    """The probes in a file. Raises ProbeError naming the line, TensorFileError when unreadable."""
    if source.size > MAX_BYTES:
        raise ProbeError(
            _("%(file)s has %(size).1f MB; a probe file takes %(limit)d MB. Keep fewer items."),
            file=source.name,
            size=source.size / 1e6,
            limit=MAX_BYTES >> 20,
        )
    return parse_probes(read_bytes(source), source.name)


def parse_probes(content: bytes, file: str) -> list[Probe]:
    """The probes in ``content``; ``file`` is its name in the refusals. Raises ProbeError."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ProbeError(
            _("%(file)s is not UTF-8 text: the first byte that is none is number %(at)d."),
            file=file,
            at=error.start + 1,
        ) from error
    numbered = [_Line(file, n, text) for n, text in enumerate(lines, 1) if text.strip()]
    if len(numbered) > MAX_ITEMS + MAX_PROBES:
        raise ProbeError(
            _("%(file)s has more than %(limit)d items. Keep fewer: some hundreds are enough."),
            file=file,
            limit=MAX_ITEMS,
        )
    return _probes(file, numbered)


def _probes(file: str, lines: Iterable[_Line]) -> list[Probe]:
    heads: list[tuple[_Line, dict[str, Any], list[Item]]] = []
    for line in lines:
        data = line.data()
        if "probe" in data:
            heads.append((line, _head(line, data), []))
        elif heads:
            _line, head, items = heads[-1]
            items.append(_item(line, data, head))
        else:
            raise line.error(
                _('%(at)s: the first line is the header of a probe: {"probe": name, "kind": …}.')
            )
    if not heads:
        raise ProbeError(_("%(file)s is empty. Leave it out, or add a probe."), file=file)
    if len(heads) > MAX_PROBES:
        raise heads[MAX_PROBES][0].error(
            _("%(at)s: a file takes %(limit)d probes at most."), limit=MAX_PROBES
        )
    names = [head["name"] for _line, head, _items in heads]
    for number, (line, head, items) in enumerate(heads):
        if not items:
            raise line.error(_("%(at)s: the probe %(name)s has no items."), name=head["name"])
        if head["name"] in names[:number]:
            raise line.error(
                _("%(at)s: there is another probe called %(name)s."), name=head["name"]
            )
    return [Probe(**head, items=tuple(items)) for _line, head, items in heads]


@dataclass(frozen=True)
class _Line:
    """One line of the file; an error about it begins with its place, ``probes.jsonl:7``."""

    file: str
    number: int
    text: str

    def error(self, template: str, **params: Any) -> ProbeError:
        said = {k: storable(v) if isinstance(v, str) else v for k, v in params.items()}
        return ProbeError(template, at=f"{self.file}:{self.number}", **said)

    def data(self) -> dict[str, Any]:
        try:
            data = json.loads(self.text, object_pairs_hook=self._once, parse_constant=self._finite)
        except RecursionError:
            raise self.error(_("%(at)s: brackets are nested too deeply.")) from None
        except json.JSONDecodeError as error:
            raise self._no_json(error.msg, error.pos) from error
        except ProbeError:
            raise
        except ValueError as error:
            raise self._no_json("a number without end", 0) from error
        if not isinstance(data, dict):
            raise self.error(_("%(at)s: a line is one JSON object in braces."))
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise self._no_json("half a character", 0) from error
        return data

    def _no_json(self, reason: str, at: int) -> ProbeError:
        return self.error(
            _("%(at)s: this is not JSON (%(reason)s at character %(column)d)."),
            reason=reason,
            column=at + 1,
        )

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _value in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise self.error(_("%(at)s: `%(field)s` is there twice."), field=twice[:MAX_NAME])
        return found

    def _finite(self, word: str) -> Any:
        raise self.error(_("%(at)s: %(word)s is not a value JSON knows."), word=word)

    def known(self, data: Mapping[str, Any], fields: Iterable[str]) -> None:
        for name in data:
            if name not in fields:
                raise self.error(
                    _("%(at)s: `%(field)s` is not known here; known are %(known)s."),
                    field=name[:MAX_NAME],
                    known=", ".join(fields),
                )

    def string(self, data: Mapping[str, Any], name: str, limit: int) -> str:
        if name not in data:
            raise self.error(_("%(at)s: `%(field)s` is missing."), field=name)
        return self.checked(data[name], name, limit)

    def checked(self, value: Any, name: str, limit: int) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.error(_("%(at)s: `%(field)s` is a text that is not empty."), field=name)
        if len(value) > limit:
            raise self.error(
                _("%(at)s: `%(field)s` has %(count)d characters; %(limit)d are taken."),
                field=name,
                count=len(value),
                limit=limit,
            )
        return value


def _head(line: _Line, data: dict[str, Any]) -> dict[str, Any]:
    name = line.string(data, "probe", MAX_NAME)
    kind = line.string(data, "kind", MAX_NAME)
    if kind not in METRICS:
        raise line.error(
            _("%(at)s: `kind` is `%(kind)s`; known are %(known)s."),
            kind=kind,
            known=", ".join(METRICS),
        )
    fields = ["probe", "kind", "metric"]
    if kind in _DESCRIBED | _NUMBERED | {FILL_MASK}:
        fields.append("labels")
    if kind == GENERATION:
        fields.append("max_new_tokens")
    line.known(data, fields)
    metric = data.get("metric", METRICS[kind][0])
    if metric not in METRICS[kind]:
        raise line.error(
            _("%(at)s: `metric` is `%(metric)s`; %(kind)s knows %(known)s."),
            metric=str(metric)[:MAX_NAME],
            kind=kind,
            known=", ".join(METRICS[kind]),
        )
    return {
        "name": name,
        "kind": kind,
        "metric": metric,
        "labels": _labels(line, kind, data.get("labels")) if "labels" in fields else {},
        "max_new_tokens": _tokens(line, data) if kind == GENERATION else 0,
    }


def _labels(line: _Line, kind: str, raw: Any) -> dict[str, str | int]:
    if kind == FILL_MASK:
        if raw is None:
            return {}
        if not isinstance(raw, list):
            raise line.error(_("%(at)s: `labels` is a list of words."))
        words = [line.checked(word, "labels", MAX_NAME) for word in raw]
        if len(set(words)) != len(words):
            raise line.error(_("%(at)s: `labels` names a word twice."))
        labels: dict[str, str | int] = {word: word for word in words}
    elif not isinstance(raw, dict):
        raise line.error(
            _("%(at)s: `labels` is an object: each label with the sentence that describes it.")
            if kind in _DESCRIBED
            else _("%(at)s: `labels` is an object: each label with its class in the model's head.")
        )
    else:
        labels = {
            line.checked(label, "labels", MAX_NAME): _meaning(line, kind, label, value)
            for label, value in raw.items()
        }
        if len(set(labels.values())) != len(labels):
            raise line.error(_("%(at)s: two of the `labels` mean the same."))
    if not 2 <= len(labels) <= MAX_LABELS:
        raise line.error(_("%(at)s: `labels` has from 2 to %(limit)d entries."), limit=MAX_LABELS)
    return labels


def _meaning(line: _Line, kind: str, label: str, value: Any) -> str | int:
    if kind in _DESCRIBED:
        return line.checked(value, f"labels.{label[:MAX_NAME]}", MAX_TEXT)
    if type(value) is not int or not 0 <= value < 1_000_000:
        raise line.error(
            _("%(at)s: `%(field)s` is the number of a class, from 0."),
            field=f"labels.{label[:MAX_NAME]}",
        )
    return value


def _tokens(line: _Line, data: Mapping[str, Any]) -> int:
    count = data.get("max_new_tokens", 32)
    if type(count) is not int or not 1 <= count <= MAX_NEW_TOKENS:
        raise line.error(
            _("%(at)s: `max_new_tokens` is a whole number from 1 to %(limit)d."),
            limit=MAX_NEW_TOKENS,
        )
    return count


def _item(line: _Line, data: dict[str, Any], head: Mapping[str, Any]) -> Item:
    kind = head["kind"]
    line.known(data, ("input", "expected"))
    given = line.string(data, "input", MAX_MEDIA if kind in (IMAGES, SPEECH) else MAX_TEXT)
    raw = data.get("expected")
    if kind == GENERATION and isinstance(raw, list) and raw:
        expected = tuple(line.checked(each, "expected", MAX_TEXT) for each in raw)
    else:
        expected = (line.string(data, "expected", MAX_TEXT),)
    if head["labels"] and expected[0] not in head["labels"]:
        raise line.error(
            _("%(at)s: `expected` is `%(label)s`, which is no label of the probe %(name)s."),
            label=expected[0][:MAX_NAME],
            name=head["name"],
        )
    if kind == IMAGES:
        _check_picture(line, given)
    elif kind == SPEECH:
        _check_sound(line, given)
        if not words_of(expected[0]):
            raise line.error(_("%(at)s: `expected` has no word in it."))
    elif kind == FILL_MASK and given.count("[MASK]") != 1:
        raise line.error(_("%(at)s: `input` has [MASK] in one place: the word that is asked for."))
    return Item(given, expected)


def _decoded(line: _Line, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise line.error(_("%(at)s: `input` is not base64.")) from error


def _check_picture(line: _Line, text: str) -> None:
    if not _decoded(line, text).startswith(_PICTURES):
        raise line.error(_("%(at)s: `input` is not a PNG, JPEG or WebP picture in base64."))


def _check_sound(line: _Line, text: str) -> None:
    try:
        with wave.open(io.BytesIO(_decoded(line, text))) as sound:
            shape = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
            seconds = sound.getnframes() / max(1, sound.getframerate())
    except (wave.Error, EOFError) as error:
        raise line.error(_("%(at)s: `input` is not a WAV sound in base64.")) from error
    if shape != (1, 2, RATE) or not 0 < seconds <= SECONDS:
        raise line.error(
            _(
                "%(at)s: `input` is no WAV of one channel, 16 bits, %(rate)d Hz and at most "
                "%(seconds)d s."
            ),
            rate=RATE,
            seconds=SECONDS,
        )
