"""The tokens of a model and the rows they own, read from its tokenizer files as plain data.

A tokenizer library would run code chosen by the file and bring its own version's opinions; the
table of strings and row numbers lies open in every format that is common:

- ``tokenizer.json`` (``model.vocab`` of BPE, WordPiece, WordLevel and Unigram, ``added_tokens``),
- ``vocab.json``, ``vocab.txt``, or a SentencePiece model (sentencepiece_model.proto), each with
  ``added_tokens.json`` and ``added_tokens_decoder`` of ``tokenizer_config.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vectors.tensorfile.checkpoint import read_json
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.source import ByteSource, read_bytes

from .errors import MergeError, _

MAX_TOKENIZER_BYTES = 128 * 2**20  # 33 MB for 262 000 tokens

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "spm.model")
# Files that have the tokens of a model, and those that say more of them.
TABLES = ("tokenizer.json", "vocab.json", "vocab.txt", *_SENTENCEPIECE)
TOKENIZER_FILES = (*TABLES, "tokenizer_config.json", "added_tokens.json")
# These tokenizers put tokens of their own before the pieces, so a piece's place is not its row.
_SHIFTED = ("XLM", "MBart", "Nllb", "Camembert", "Barthez", "PLBart", "XGLM", "Pegasus")
_SPELLINGS = {"Ġ": "byte-level BPE", "▁": "SentencePiece", "##": "WordPiece"}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token strings and the rows they own; a row has one token or none.

    ``spelling`` says how the strings write spaces and bytes (empty: cannot be told). A byte-level
    `é` is a byte and a SentencePiece `é` a letter, so equal strings of two spellings are not equal
    tokens; spellings are never translated.
    """

    ids: Mapping[str, int]

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Token strings by row."""
        return {row: token for token, row in self.ids.items()}

    @cached_property
    def spelling(self) -> str:
        """How spaces are spelled by at least one token in a hundred."""
        counts = {mark: sum(token.startswith(mark) for token in self.ids) for mark in _SPELLINGS}
        mark = max(counts, key=counts.__getitem__)
        return _SPELLINGS[mark] if counts[mark] * 100 >= max(len(self.ids), 1) else ""


def read_tokens(files: Mapping[str, ByteSource], *, label: str = "the model") -> Vocabulary:
    """Read the vocabulary among the repository ``files`` (path → bytes) of the model ``label``.

    Only the files it needs are read. Of two equal strings in one table the later one counts, as in
    tokenizer libraries. Rows may be missing, and there may be more tokens than a matrix has rows.
    Raises TensorFileError when a file cannot be read or gives one row to two tokens, MergeError
    when no file says what the tokens are.
    """
    config = _config(files)
    if "tokenizer.json" in files:
        ids = _fast_tokens(files["tokenizer.json"])
        taken = set(ids.values())
        # The library adds what tokenizer.json lacks behind its tokens, and believes it otherwise.
        for token, row in _decoder(config, files).items():
            if token not in ids and row not in taken:
                ids[token] = row
        return Vocabulary(ids)
    ids = _slow_tokens(files, config, label)
    if "added_tokens.json" in files:
        source = files["added_tokens.json"]
        ids = _overlaid(ids, _table(read_json(source).items(), source.name))
    return Vocabulary(_overlaid(ids, _decoder(config, files)))


def _overlaid(ids: Mapping[str, int], added: Mapping[str, int]) -> dict[str, int]:
    """An added token takes its row from whatever had it: that is how reserved ones are renamed."""
    taken = set(added.values())
    return {**{token: row for token, row in ids.items() if row not in taken}, **added}


def _config(files: Mapping[str, ByteSource]) -> dict[str, Any]:
    source = files.get("tokenizer_config.json")
    return read_json(source) if source is not None else {}


def _fast_tokens(source: ByteSource) -> dict[str, int]:
    document = read_json(source, MAX_TOKENIZER_BYTES)
    model = document.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # Unigram: [piece, score], the row is the place
        pieces = [item[0] if isinstance(item, list) and item else None for item in vocab]
        ids = _table(zip(pieces, range(len(pieces)), strict=True), source.name)
    elif isinstance(vocab, dict):
        ids = _table(vocab.items(), source.name)
    else:
        raise TensorFileError(_("%(file)s has no table of tokens."), file=source.name)
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(item, dict) for item in added):
        raise TensorFileError(_("%(file)s does not give each token its row."), file=source.name)
    extra = [(item.get("content"), item.get("id")) for item in added]
    # Last come those of the model's table: its row of a token holds, whatever added_tokens says.
    return _table([*extra, *ids.items()], source.name)


def _slow_tokens(
    files: Mapping[str, ByteSource], config: Mapping[str, Any], label: str
) -> dict[str, int]:
    if "vocab.json" in files:
        source = files["vocab.json"]
        return _table(read_json(source, MAX_TOKENIZER_BYTES).items(), source.name)
    if "vocab.txt" in files:
        return _listed(_lines(files["vocab.txt"]))
    kind = str(config.get("tokenizer_class") or "")
    for path in _SENTENCEPIECE:
        if path in files and not kind.startswith(_SHIFTED):
            return _listed(_pieces(files[path]))
    raise MergeError(
        _(
            "The tokens of %(label)s cannot be told from its files: add tokenizer.json (save the "
            "tokenizer with transformers)."
        ),
        label=label,
    )


def _listed(tokens: list[str]) -> dict[str, int]:
    """Rows by place in the list; an empty line is no token."""
    return {token: row for row, token in enumerate(tokens) if token}


def _table(pairs: Iterable[tuple[Any, Any]], file: str) -> dict[str, int]:
    """Tokens and rows checked to be strings and different rows; the later of equal strings."""
    ids: dict[str, int] = {}
    for token, row in pairs:
        if not isinstance(token, str) or type(row) is not int or row < 0:
            raise TensorFileError(_("%(file)s does not give each token its row."), file=file)
        ids[token] = row
    owner: dict[int, str] = {}
    for token, row in ids.items():
        if row in owner:
            raise TensorFileError(
                _("%(file)s gives row %(row)d to two tokens, `%(first)s` and `%(second)s`."),
                file=file,
                row=row,
                first=owner[row],
                second=token,
            )
        owner[row] = token
    return ids


def _decoder(config: Mapping[str, Any], files: Mapping[str, ByteSource]) -> dict[str, int]:
    """``added_tokens_decoder`` of tokenizer_config.json, by token."""
    decoder = config.get("added_tokens_decoder")
    if not decoder:
        return {}
    file = files["tokenizer_config.json"].name
    if not isinstance(decoder, dict):
        raise TensorFileError(_("%(file)s does not give each token its row."), file=file)
    return _table(((content(token), _number(row)) for row, token in decoder.items()), file)


def content(token: Any) -> Any:
    """The string of a token that is written alone or with its settings."""
    return token.get("content") if isinstance(token, dict) else token


def _number(key: str) -> int | None:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None


def _bytes(source: ByteSource) -> bytes:
    if source.size > MAX_TOKENIZER_BYTES:
        raise TensorFileError(
            _("%(file)s has %(size)d bytes; at most %(limit)d are accepted."),
            file=source.name,
            size=source.size,
            limit=MAX_TOKENIZER_BYTES,
        )
    return read_bytes(source)


def _lines(source: ByteSource) -> list[str]:
    # Tokens may be the odder characters that str.splitlines takes for ends of lines.
    try:
        return _bytes(source).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TensorFileError(_("%(file)s is not UTF-8 text."), file=source.name) from error


def _pieces(source: ByteSource) -> list[str]:
    """Pieces of a SentencePiece model, in row order: field 1 of each field 1 of ModelProto."""
    try:
        messages = [body for field, body in _fields(_bytes(source)) if field == 1]
        pieces = [
            next((text.decode("utf-8") for field, text in _fields(message) if field == 1), "")
            for message in messages
        ]
    except (_NotProtobuf, UnicodeDecodeError):
        pieces = []
    if not pieces:
        raise TensorFileError(
            _("%(file)s is not a SentencePiece model: add tokenizer.json."), file=source.name
        )
    return pieces


class _NotProtobuf(Exception):
    pass


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each length-delimited field of a protocol buffer."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == 0:
            _value, at = _varint(raw, at)
            continue
        if kind == 2:
            size, at = _varint(raw, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _NotProtobuf
        if at + size > len(raw):
            raise _NotProtobuf
        if kind == 2:
            yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, min(at + 10, len(raw))):
        value |= (raw[place] & 127) << 7 * (place - at)
        if raw[place] < 128:
            return value, place + 1
    raise _NotProtobuf
