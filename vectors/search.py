"""Full-text search that finds two-character Chinese words.

No tokenizer of SQLite or PostgreSQL cuts Chinese into words, so text is folded here: NFKC, case and
accents removed, traditional characters folded to simplified ones, and every run of CJK characters
written as single characters and overlapping pairs. The same fold runs on the query.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from django.db import connections, models, router
from django.db.models.expressions import RawSQL
from opencc import OpenCC

_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_IS_CJK = re.compile(rf"[{_CJK}]")
MAX_QUERY_TOKENS = 24


@cache
def _to_simplified() -> OpenCC:
    return OpenCC("t2s")


def fold(text: str) -> str:
    """``text`` normalised: one case, no accents, simplified characters."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return _to_simplified().convert(unicodedata.normalize("NFC", plain))


def index_text(*texts: str) -> str:
    """The words to store for ``texts``, separated by spaces."""
    words: dict[str, None] = {}
    for token in _TOKEN.findall(fold(" ".join(texts))):
        if _IS_CJK.match(token):
            words.update(dict.fromkeys(token))
            words.update(dict.fromkeys(token[i : i + 2] for i in range(len(token) - 1)))
        else:
            words[token] = None
    return " ".join(words)


def query_tokens(query: str) -> list[tuple[str, bool]]:
    """(word, whether it may be the beginning of a longer word) for each word of the query."""
    tokens: list[tuple[str, bool]] = []
    for token in _TOKEN.findall(fold(query)):
        if not _IS_CJK.match(token):
            tokens.append((token, True))
        elif len(token) == 1:
            tokens.append((token, False))
        else:
            tokens.extend((token[i : i + 2], False) for i in range(len(token) - 1))
    return tokens[:MAX_QUERY_TOKENS]


def matching_ids(query: str) -> RawSQL | None:
    """A subquery of the ids of vectors that contain every word; None when there are no words."""
    tokens = query_tokens(query)
    if not tokens:
        return None
    if _is_postgres():
        text = " & ".join(f"{word}:*" if prefix else word for word, prefix in tokens)
        return RawSQL(
            "SELECT id FROM vectors_vector "
            "WHERE to_tsvector('simple', search_text) @@ to_tsquery('simple', %s)",
            [text],
        )
    text = " AND ".join(f'"{word}"*' if prefix else f'"{word}"' for word, prefix in tokens)
    return RawSQL("SELECT rowid FROM vectors_search WHERE vectors_search MATCH %s", [text])


def index(vector: models.Model) -> None:
    """Bring SQLite's index up to date with ``vector.search_text``; PostgreSQL does it itself."""
    if _is_postgres():
        return
    connection = connections[router.db_for_write(type(vector))]
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM vectors_search WHERE rowid = %s", [vector.pk])
        cursor.execute(
            "INSERT INTO vectors_search(rowid, words) VALUES (%s, %s)",
            [vector.pk, vector.search_text],  # type: ignore[attr-defined]
        )


def forget(pk: int) -> None:
    """Take a deleted vector out of the index."""
    if not _is_postgres():
        with connections["default"].cursor() as cursor:
            cursor.execute("DELETE FROM vectors_search WHERE rowid = %s", [pk])


def _is_postgres() -> bool:
    return connections["default"].vendor == "postgresql"


def create_index(apps: object, schema_editor: object) -> None:
    """Migration step: the FTS5 table, or the GIN index."""
    connection = schema_editor.connection  # type: ignore[attr-defined]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE INDEX IF NOT EXISTS vectors_vector_words ON vectors_vector "
                "USING gin (to_tsvector('simple', search_text))"
            )
        else:
            cursor.execute("CREATE VIRTUAL TABLE IF NOT EXISTS vectors_search USING fts5(words)")
