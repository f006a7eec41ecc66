"""Tiny tokenizer files of the kinds that models come with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vectors.tensorfile.source import MemorySource

LLAMA = ["<unk>", "<s>", "</s>", "<0x0A>", "▁the", "▁model", "▁", "s"]
CHINESE = ["▁模型", "模型", "向量", "能力"]  # Chinese-LLaMA puts its words behind LLaMA's


def files(contents: Mapping[str, Any]) -> dict[str, MemorySource]:
    """Sources by path; what is neither text nor bytes is written as JSON."""
    found = {}
    for path, content in contents.items():
        if isinstance(content, str):
            content = content.encode()
        elif not isinstance(content, bytes):
            content = json.dumps(content, ensure_ascii=False, indent=2).encode()
        found[path] = MemorySource(content, path)
    return found


def bpe(tokens: Sequence[str], added: Mapping[str, int] | None = None) -> dict[str, Any]:
    """``tokenizer.json`` of LLaMA's kind, without merges."""
    return {
        "version": "1.0",
        "added_tokens": [_added(token, row) for token, row in (added or {}).items()],
        "model": {
            "type": "BPE",
            "vocab": {token: row for row, token in enumerate(tokens)},
            "merges": [],
        },
    }


def unigram(tokens: Sequence[str], added: Mapping[str, int] | None = None) -> dict[str, Any]:
    """``tokenizer.json`` of T5's kind."""
    return {
        "version": "1.0",
        "added_tokens": [_added(token, row) for token, row in (added or {}).items()],
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [[token, -float(row)] for row, token in enumerate(tokens)],
        },
    }


def _added(token: str, row: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": row, "content": token, **flags, "special": True}


def decoder(added: Mapping[str, int]) -> dict[str, Any]:
    """``added_tokens_decoder`` of ``tokenizer_config.json``."""
    return {str(row): {"content": token, "special": True} for token, row in added.items()}


def sentencepiece(tokens: Sequence[str]) -> bytes:
    """A SentencePiece model: pieces with score and type, then settings."""
    pieces = b"".join(
        _message(1, _message(1, token.encode()) + b"\x15\x00\x00\x80\xbf" + b"\x18\x01")
        for token in tokens
    )
    settings = _message(2, _message(1, b"data.txt") + b"\x18\x02" + b"\xa0\x01\xac\x02")
    return pieces + settings


def _message(field: int, body: bytes) -> bytes:
    assert field < 16
    assert len(body) < 128
    return bytes([field << 3 | 2, len(body)]) + body
