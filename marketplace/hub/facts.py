"""What is told of a repository, in the protocol's words: tags, library, card, weights, numbers.

The listing and ``model_info`` tell the same things, and what the listing filters by
(``marketplace.hub.filters``) is read from the same places.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from itertools import count
from typing import Any

from django.core.cache import cache

from marketplace.hub.errors import HubError
from marketplace.hub.files import POINTER_SIZE, HubFile, safetensors_header
from marketplace.hub.repositories import GATED
from vectors.cards import list_of, read_card, text_of
from vectors.models import Access, Foundation, Vector, Version, Visibility

FRONT_CHARS = 6000  # of a card, enough for its front matter
LIBRARY = "transformers"  # of what names no library itself
RELATIONS = {"full": "finetune", "delta": "finetune", "lora": "adapter"}
MAX_CONFIG = 1 << 20
MAX_CARD_VALUES = 20_000  # of one card's front matter, in JSON
CACHED = 24 * 3600  # what is read from a file that never changes

# The protocol's names of everything that can be asked for by ``expand``, by older clients too.
PROPERTIES = frozenset(
    "author baseModels cardData childrenModelCount config createdAt disabled downloads "
    "downloadsAllTime evalResults gated gguf inference inferenceProviderMapping lastModified "
    "library_name likes mask_token model-index pipeline_tag private resourceGroup safetensors sha "
    "siblings spaces tags transformersInfo trendingScore usedStorage widgetData xetEnabled".split()
)

# Lines of a card before the end of its front matter. The expressions here are read by Python,
# SQLite and PostgreSQL alike.
IN_FRONT = r"^---[ \t]*\r?\n((?!---)[^\n]*\n)*"
_LIBRARY = re.compile(IN_FRONT + r"library_name:[ \t]*[\"']?([\w.-]+)")
_DATASETS = re.compile(
    IN_FRONT + r"datasets:[ \t]*(?P<line>[^\r\n]*)\r?\n(?P<items>([ \t]*-[ \t][^\n]*\n)*)"
)


def iso(moment: datetime) -> str:
    """A moment as the protocol writes it: UTC, with milliseconds and Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def library_of(card: str) -> str:
    """The library that a card names, else the usual one."""
    found = _LIBRARY.match(card)
    return found[2] if found else LIBRARY


def datasets_of(card: str) -> list[str]:
    """The data sets that a card names."""
    found = _DATASETS.match(card)
    if found is None:
        return []
    names = found["line"].strip("[] \t").split(",")
    names += [line.strip().removeprefix("-") for line in found["items"].splitlines()]
    return [name for name in (each.strip(" \t\"'") for each in names) if name][:20]


def vector_facts(vector: Vector, version: Version, card: str) -> dict[str, Any]:
    """What the rows of a vector say, at one of its versions."""
    base = vector.foundation.repo_id
    library = "peft" if version.form == "lora" else library_of(card)
    relation = RELATIONS.get(version.form, "finetune")
    kinds = ["task-vector", f"form:{version.form}"] if version.form else ["task-vector"]
    bases = [f"base_model:{base}", f"base_model:{relation}:{base}"]
    return {
        **_common(vector, library, card, [*kinds, *bases]),
        "gated": GATED[Access(vector.access)],
        "private": vector.visibility == Visibility.PRIVATE,
        "usedStorage": version.nbytes,
        "baseModels": [base],
    }


def foundation_facts(foundation: Foundation, card: str) -> dict[str, Any]:
    """What the row of a foundation says."""
    return {
        **_common(foundation, library_of(card), card, ["foundation"]),
        "usedStorage": foundation.nbytes,
        "baseModels": [],
    }


def _common(row: Vector | Foundation, library: str, card: str, kinds: list[str]) -> dict[str, Any]:
    tags = [library, "safetensors", *kinds, *row.tags, row.pipeline_tag, *row.language_list]
    tags += [f"dataset:{name}" for name in datasets_of(card)]
    tags += [f"license:{row.license}"] if row.license else []
    return {
        "_id": f"{type(row).__name__.lower()}-{row.pk}",
        "id": row.repo_id,
        "modelId": row.repo_id,
        "author": row.namespace,
        "createdAt": iso(row.created),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": row.downloads,
        "downloadsAllTime": row.downloads,
        "likes": row.likes,
        "library_name": library,
        "pipeline_tag": row.pipeline_tag or None,
        "tags": unique(tags),
    }


def card_facts(card: str) -> dict[str, Any]:
    """What a card says of a repository that has no other row to ask: an equipped model's."""
    front = read_card(card).data
    bases = list_of(front.get("base_model"))
    relation = text_of(front.get("base_model_relation")) or "finetune"
    library, task = (
        text_of(front.get("library_name")) or LIBRARY,
        text_of(front.get("pipeline_tag")),
    )
    said = text_of(front.get("license"))
    tags = [library, "safetensors", *list_of(front.get("tags")), task]
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{relation}:{base}" for base in bases]
    tags += [f"license:{said}"] if said else []
    return {
        "library_name": library,
        "pipeline_tag": task or None,
        "tags": unique(tags),
        "baseModels": bases,
    }


def unique(words: Iterable[str]) -> list[str]:
    """The words that are not empty, each once."""
    return list(dict.fromkeys(word for word in words if word))


def card_data(card: str) -> dict[str, Any]:
    """The front matter of a card as JSON can carry it; nothing where it would not end."""
    try:
        plain = _plain(read_card(card).data, count(MAX_CARD_VALUES, -1))
    except (OverflowError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _plain(value: Any, left: Iterator[int]) -> Any:
    # An alias may stand for what contains it, or for a million copies of a million copies.
    if next(left) < 0:
        raise OverflowError
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, left) for item in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def siblings(files: Mapping[str, HubFile], *, blobs: bool = False) -> list[dict[str, Any]]:
    """The files of a repository; with sizes and hashes where ``blobs`` are asked for."""
    rows = []
    for file in files.values():
        row: dict[str, Any] = {"rfilename": file.path}
        if blobs:
            row |= {"size": file.size, "blobId": file.oid}
            if file.sha256:
                row["lfs"] = {
                    "sha256": file.sha256,
                    "size": file.size,
                    "pointerSize": POINTER_SIZE,
                }
        rows.append(row)
    return rows


def config(files: Mapping[str, HubFile]) -> dict[str, Any]:
    """What a reader of ``config.json`` and ``adapter_config.json`` wants to know first."""
    model, adapter = _json(files.get("config.json")), _json(files.get("adapter_config.json"))
    told: dict[str, Any] = {k: model[k] for k in ("architectures", "model_type") if k in model}
    if adapter:
        keys = ("base_model_name_or_path", "task_type", "peft_type")
        told["peft"] = {key: adapter[key] for key in keys if adapter.get(key)}
    return told


def _json(file: HubFile | None) -> dict[str, Any]:
    if file is None or file.size > MAX_CONFIG:
        return {}

    def read() -> dict[str, Any]:
        try:
            found = json.loads(b"".join(file.read(0, file.size)))
        except (ValueError, OSError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    return cache.get_or_set(f"hub:json:{file.etag}", read, CACHED) or {}


def safetensors(files: Mapping[str, HubFile]) -> dict[str, Any] | None:
    """Parameters by dtype, from the headers of the weights; None where there are none."""
    counts: Counter[str] = Counter()
    for file in files.values():
        if file.path.endswith(".safetensors"):
            counts.update(_counts(file))
    return {"parameters": dict(counts), "total": sum(counts.values())} if counts else None


def _counts(file: HubFile) -> dict[str, int]:
    def read() -> dict[str, int]:
        counts: Counter[str] = Counter()
        try:
            for name, entry in safetensors_header(file).items():
                if name != "__metadata__":
                    counts[entry["dtype"]] += math.prod(entry["shape"])
        except (HubError, ValueError, AttributeError, KeyError, TypeError, OSError):
            return {}
        return dict(counts)

    return cache.get_or_set(f"hub:dtypes:{file.etag}", read, CACHED) or {}
