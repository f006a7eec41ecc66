"""What a listing is narrowed by: search words, author, tags, task, access, number of parameters.

Every question is asked of the database. What is not a column of its own (library, data sets) is
found in the front matter of the cards there.
"""

from __future__ import annotations

import json
import re
from typing import Any

from django.db import connections
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast, Left
from django.http import QueryDict

from marketplace.hub.errors import bad_request
from marketplace.hub.facts import FRONT_CHARS, IN_FRONT, LIBRARY, RELATIONS
from marketplace.hub.requests import Caller
from vectors.errors import _
from vectors.models import Access, Foundation, Vector
from vectors.search import matching_ids, query_tokens

ALL, NONE = ~Q(pk__in=[]), Q(pk__in=[])
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BOUND = re.compile(r"(min|max):(\d{1,6}(?:\.\d{1,6})?)([KMBT]?)", re.IGNORECASE | re.ASCII)
_ASKED = ("search", "author", "pipeline_tag", "gated", "num_parameters")
# Nothing here runs elsewhere, so whoever asks for what does finds nothing.
_ELSEWHERE = ("apps", "inference", "inference_provider")

Sides = tuple[QuerySet[Any], QuerySet[Any]]
Question = tuple[Q, Q]  # of the vectors, of the foundations


def narrowed(get: QueryDict, caller: Caller) -> Sides:
    """The vectors and the foundations that an address asks for. Raises HubError 400."""
    vectors: QuerySet[Any] = Vector.objects.visible_to(caller.user)
    foundations: QuerySet[Any] = Foundation.objects.all()
    texts = {"front": Left("card", FRONT_CHARS), "tags_text": Cast("tags", TextField())}
    vectors, foundations = vectors.annotate(**texts), foundations.annotate(**texts)
    for of_vectors, of_foundations in _questions(get):
        vectors, foundations = vectors.filter(of_vectors), foundations.filter(of_foundations)
    return vectors, foundations


def _questions(get: QueryDict) -> list[Question]:
    said = {name: str(get.get(name, "")).strip() for name in _ASKED}
    asked: list[Question] = []
    if said["search"]:
        asked.append(_containing(said["search"][:200]))
    if said["author"]:
        asked.append(_both(Q(namespace__iexact=said["author"])))
    if said["pipeline_tag"]:
        asked.append(_both(Q(pipeline_tag=said["pipeline_tag"])))
    if said["gated"]:
        asked.append(_gated(said["gated"].lower() in ("1", "true")))
    if said["num_parameters"]:
        asked.append(_of_size(said["num_parameters"]))
    if any(get.get(name) for name in _ELSEWHERE):
        asked.append((NONE, NONE))
    tags = [part for text in get.getlist("filter") for part in str(text).split(",")]
    tags += [f"language:{code}" for code in get.getlist("language")]
    tags += [str(name) for name in get.getlist("library")]
    return asked + [tagged(tag.strip()) for tag in tags[:50] if tag.strip()]


def _both(question: Q) -> Question:
    return question, question


def _containing(words: str) -> Question:
    """Every word somewhere in the text, as the catalogue searches, or all of it in the name."""
    named = Q(name__icontains=words) | Q(namespace__icontains=words)
    ids = matching_ids(words)
    everywhere = ALL if query_tokens(words) else NONE
    for token, _prefix in query_tokens(words):
        everywhere &= Q(search_text__contains=token)
    return (named if ids is None else named | Q(pk__in=ids)), named | everywhere


def _gated(wanted: bool) -> Question:
    is_open = Q(access=Access.OPEN)
    return (~is_open, NONE) if wanted else (is_open, ALL)


def _of_size(text: str) -> Question:
    """``min:6B,max:128B``: the parameters of a foundation, and of the one behind a vector."""
    vectors = foundations = ALL
    for part in text.split(","):
        found = _BOUND.fullmatch(part.strip())
        if found is None:
            raise bad_request(
                _("`num_parameters` is written like `min:6B,max:128B`, not `%(text)s`.")
                % {"text": text[:100]}
            )
        side, number, unit = found.groups()
        bound = int(float(number) * _UNITS[unit.upper()])
        lookup = "parameters__gte" if side.lower() == "min" else "parameters__lte"
        foundations &= Q(**{lookup: bound})
        vectors &= Q(**{f"foundation__{lookup}": bound})
    return vectors, foundations


def tagged(tag: str) -> Question:
    """What has ``tag`` among the tags that its row in the listing shows."""
    kind, _colon, rest = tag.partition(":")
    if kind == "base_model" and rest:
        return _based_on(rest), NONE
    if kind == "license" and rest:
        return _both(Q(license__iexact=rest))
    if kind == "language" and rest:
        return _both(_in_language(rest))
    if kind == "dataset" and rest:
        return _both(Q(front__regex=_dataset_pattern(rest)))
    if kind == "form" and rest:
        return Q(current__form=rest), NONE
    if tag in ("safetensors", "task-vector", "foundation"):
        return (NONE if tag == "foundation" else ALL), (NONE if tag == "task-vector" else ALL)
    said = Q(pipeline_tag=tag) | _in_language(tag) | _among_tags(tag)
    of_library = _of_library(tag)
    lora = Q(current__form="lora")
    return said | ~lora & of_library | (lora if tag == "peft" else NONE), said | of_library


def _based_on(text: str) -> Q:
    relation, colon, base = text.partition(":")
    if not colon:
        relation, base = "", text
    namespace, _slash, name = base.partition("/")
    question = Q(foundation__namespace__iexact=namespace, foundation__name__iexact=name)
    if relation:
        forms = [form for form, its in RELATIONS.items() if its == relation]
        question &= Q(current__form__in=forms)
    return question


def _in_language(code: str) -> Q:
    return Q(languages__contains=f" {code.lower()} ") if " " not in code else NONE


def _among_tags(tag: str) -> Q:
    """An element of the JSON list. SQLite keeps the text as it was written, in ASCII; PostgreSQL
    writes it anew."""
    ascii_only = connections["default"].vendor == "sqlite"
    return Q(tags_text__contains=json.dumps(tag, ensure_ascii=ascii_only))


def _of_library(name: str) -> Q:
    line = IN_FRONT + r"library_name:[ \t]*[\"']?"
    question = Q(front__regex=line + re.escape(name) + r"[\"']?[ \t]*(\r?\n|$)")
    return question | ~Q(front__regex=line) if name == LIBRARY else question


def _dataset_pattern(name: str) -> str:
    quoted = r"[\"']?" + re.escape(name) + r"[\"']?[ \t]*"
    on_the_line = r"(\[([^\r\n]*,)?[ \t]*)?" + quoted + r"(\r?\n|[\],])"
    in_a_list = r"\r?\n([ \t]*-[ \t][^\n]*\n)*[ \t]*-[ \t]+" + quoted + r"\r?\n"
    return f"{IN_FRONT}datasets:[ \\t]*({on_the_line}|{in_a_list})"
