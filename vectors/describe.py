"""From a card's front matter to the fields of a page; and the names repositories may have."""

from __future__ import annotations

import math
import re
from typing import Any

from vectors.cards import RENDERER, list_of, read_card, render, text_of
from vectors.errors import Refusal, _
from vectors.models import Claim, Foundation, Repository, Vector
from vectors.search import index_text

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
# A small picture inside the card, shown without a request.
_IMAGE = re.compile(r"data:image/(?:png|webp);base64,[A-Za-z0-9+/]{1,6000}={0,2}")
LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "openrail",
    "gpl-3.0",
    "lgpl-3.0",
    "llama2",
    "llama3",
    "gemma",
    "other",
)
TASKS = (
    "text-classification",
    "token-classification",
    "sentence-similarity",
    "feature-extraction",
    "fill-mask",
    "text-generation",
    "translation",
    "summarization",
    "question-answering",
    "image-classification",
    "automatic-speech-recognition",
    "audio-classification",
    "image-to-text",
    "text-to-image",
    "other",
)


def check_name(name: str) -> str:
    """A repository's name, or a Refusal that says what a name looks like."""
    if not NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".zip")):
        raise Refusal(
            _(
                "`%(name)s` is not a usable name: letters, digits, `-`, `_` and `.`, up to 96 "
                "characters, beginning and ending with a letter or digit."
            ),
            name=name[:100],
        )
    return name


def claim_of(namespace: str, name: str) -> Claim | None:
    """The claim to this id. Its owner has that namespace, so that what they publish fulfils it."""
    return Claim.objects.filter(namespace__iexact=namespace, name__iexact=name).first()


def check_free(namespace: str, name: str, *, but: Claim | None = None) -> None:
    """Refuse an id that a foundation or a vector already has, or a claim other than ``but``."""
    for model in (Foundation, Vector, Claim):
        taken = model._default_manager.filter(namespace__iexact=namespace, name__iexact=name)
        if model is Claim and but is not None:
            taken = taken.exclude(pk=but.pk)
        if taken.exists():
            raise Refusal(
                _("%(id)s already exists. Choose another name, or publish a new version of it."),
                id=f"{namespace}/{name}",
            )


def fields_from_card(text: str) -> dict[str, Any]:
    """The fields a card fills: title, summary, license, pipeline_tag, languages, tags,
    abilities, examples. Missing ones are empty."""
    card = read_card(text)
    house = card.data.get("armory")
    house = house if isinstance(house, dict) else {}
    abilities, examples = house.get("abilities"), house.get("examples")
    return {
        "title": text_of(house.get("title"), 120) or _first_heading(card.body),
        "summary": text_of(house.get("summary")),
        "license": text_of(card.data.get("license"), 60).lower(),
        "pipeline_tag": text_of(card.data.get("pipeline_tag"), 60),
        "languages": [code.lower() for code in list_of(card.data.get("language"))],
        "tags": list_of(card.data.get("tags")),
        "abilities": [_ability(each) for each in abilities if isinstance(each, dict)][:20]
        if isinstance(abilities, list)
        else [],
        "examples": [_example(each) for each in examples if isinstance(each, dict)][:8]
        if isinstance(examples, list)
        else [],
    }


def describe(repository: Repository, card: str, fields: dict[str, Any]) -> None:
    """Set the describing fields of ``repository`` (not saved) from a card and its fields."""
    repository.card = card
    repository.title = fields.get("title", "")[:120]
    repository.summary = fields.get("summary", "")[:200]
    _draw_card(repository)
    repository.license = fields.get("license", "")[:60]
    repository.pipeline_tag = fields.get("pipeline_tag", "")[:60]
    codes = [code for code in fields.get("languages", []) if re.fullmatch(r"[a-z-]{2,12}", code)]
    repository.languages = f" {' '.join(codes)} "[:200] if codes else ""
    repository.tags = fields.get("tags", [])[:20]
    repository.search_text = search_text_of(repository)


def _draw_card(repository: Repository) -> None:
    repository.card_html = render(_below_the_head(repository))
    repository.card_renderer = RENDERER


def with_newest_card(repository: Repository) -> None:
    """Draw the card anew, once, where an older renderer has drawn what is kept of it."""
    if repository.card_renderer == RENDERER:
        return
    _draw_card(repository)
    # Who publishes at this moment has drawn another card, by this renderer: that one stays.
    older = type(repository)._default_manager.filter(pk=repository.pk)
    older.exclude(card_renderer=RENDERER).update(
        card_html=repository.card_html, card_renderer=RENDERER
    )


def search_text_of(repository: Repository) -> str:
    """The words by which a described repository is found."""
    return index_text(
        repository.repo_id,
        repository.title,
        repository.summary,
        repository.pipeline_tag.replace("-", " "),
        " ".join(repository.tags),
        read_card(repository.card).body[:20_000],
    )


def suggested_coefficient(card: str) -> float:
    """What the card says to start with (`armory.coefficient`), from −2 to 2; else 1."""
    house = read_card(card).data.get("armory")
    value = house.get("coefficient") if isinstance(house, dict) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and -2 <= value <= 2
    return float(value) if usable and value else 1.0


def _below_the_head(repository: Repository) -> str:
    """The card without title and summary at its beginning: the page shows them above it."""
    body = read_card(repository.card).body
    heading, _break, rest = body.lstrip().partition("\n")
    if heading.removeprefix("# ").strip() != repository.title:
        return body
    paragraph, _break, after = rest.lstrip().partition("\n\n")
    return after if " ".join(paragraph.split()) == repository.summary else rest


def _ability(raw: dict[str, Any]) -> dict[str, Any]:
    def number(key: str) -> float | None:
        value = raw.get(key)
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if usable and math.isfinite(value) else None  # type: ignore[arg-type]

    count = raw.get("n")
    return {
        "name": text_of(raw.get("name"), 80),
        "metric": text_of(raw.get("metric"), 40),
        "without": number("without"),
        "with": number("with"),
        "n": count if type(count) is int and count > 0 else None,
    }


def _example(raw: dict[str, Any]) -> dict[str, str]:
    image = text_of(raw.get("image"), 10_000)
    return {
        "input": text_of(raw.get("input"), 400),
        "image": image if _IMAGE.fullmatch(image) else "",
        "without": text_of(raw.get("without"), 200),
        "output": text_of(raw.get("output"), 200),
    }


def _first_heading(body: str) -> str:
    found = re.search(r"^#\s+(.+)$", body, re.M)
    heading = found[1].strip()[:120] if found else ""
    # The heading of a template that nobody filled in says nothing.
    return "" if heading.lower().startswith("model card") else heading
