"""What a page makes of a card: examples, the number to start with, no title twice, sentences."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.translation import override
from pytest_django import DjangoAssertNumQueries

from tests.hub import stock
from vectors.cards import RENDERER, read_card, render
from vectors.catalogue import facet_label
from vectors.describe import describe, fields_from_card, suggested_coefficient, with_newest_card
from vectors.models import Vector, Version
from vectors.templatetags.armory import ability_rows, ticked

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def card(house: str, body: str = "") -> str:
    return f"---\narmory: {house}\n---\n{body}"


@pytest.mark.parametrize(
    ("house", "coefficient"),
    [
        ("{coefficient: 0.7}", 0.7),
        ("{coefficient: -1}", -1),
        ("{coefficient: 5}", 1),
        ("{coefficient: 0}", 1),
        ("{coefficient: true}", 1),
        ("{coefficient: much}", 1),
        ("[]", 1),
        ("{}", 1),
    ],
)
def test_the_number_to_start_with(house: str, coefficient: float) -> None:
    assert suggested_coefficient(card(house)) == coefficient


@pytest.mark.parametrize("front", ["made: 2026-13-45", "a: " + "[" * 5000, "a: b: c", "a: \x01"])
def test_a_broken_card_is_still_a_card(front: str) -> None:
    found = read_card(f"---\n{front}\n---\n# Law\n")
    assert (found.data, found.body) == ({}, "# Law\n")
    assert found.problem


def test_a_card_costs_no_more_than_its_length() -> None:
    layers = "".join(f"k{i}: &k{i} {{<<: [{','.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
    started = time.monotonic()
    assert read_card(f"---\nk0: &k0 {{x: 1}}\n{layers}---\n# Law\n").problem
    assert "x" in render("<!-- not shown --><!--" * 20_000 + "x")
    assert time.monotonic() - started < 5
    assert render("a<!-- b -->c<!--d").strip() == "<p>ac&lt;!--d</p>"


@pytest.mark.parametrize(
    ("front", "stated"),
    [
        ('license: "a\\0b\\ud800c"', "a?b?c"),
        (f"license: 0x{'f' * 5000}", "0x" + "f" * 58),
        ("license: 3", "3"),
    ],
)
def test_what_a_database_does_not_take_is_no_part_of_a_card(front: str, stated: str) -> None:
    assert fields_from_card(f"---\n{front}\n---\n")["license"] == stated


@pytest.mark.parametrize("number", [".nan", "-.inf", "1" + "0" * 400, "0x" + "f" * 5000, "yes"])
def test_an_ability_is_measured_in_numbers(number: str) -> None:
    house = f"{{abilities: [{{name: a, with: {number}, n: {number}}}]}}"
    (ability,) = fields_from_card(card(house))["abilities"]
    assert (ability["with"], ability["n"]) == (None, None)


def test_an_ability_of_no_items_has_no_interval() -> None:
    ability = {"name": "a", "without": 0.4, "with": 0.5, "n": -5}
    (row,) = ability_rows(Version(abilities=[ability]))
    assert (row["x1"], row.get("interval")) == (50.0, None)
    (read,) = fields_from_card(card("{abilities: [{name: a, n: -5}]}"))["abilities"]
    assert read["n"] is None


def test_a_card_lists_so_many_abilities() -> None:
    house = "{abilities: [" + "{name: a}," * 1000 + "]}"
    assert len(fields_from_card(card(house))["abilities"]) == 20


def test_examples() -> None:
    house = f"{{examples: [{{input: a, without: b, output: c}}, {{image: '{PICTURE}'}}, 3]}}"
    assert fields_from_card(card(house))["examples"] == [
        {"input": "a", "image": "", "without": "b", "output": "c"},
        {"input": "", "image": PICTURE, "without": "", "output": ""},
    ]


@pytest.mark.parametrize(
    "image",
    [
        "https://tracker.example/x.png",
        "javascript:alert(1)",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,AAAA" onerror="x',
        f"data:image/png;base64,{'A' * 20_000}",
    ],
)
def test_only_small_pictures_inside_the_card_are_shown(image: str) -> None:
    front: dict[str, Any] = {"examples": [{"image": image}]}
    assert fields_from_card(card(str(front)))["examples"][0]["image"] == ""


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ("# Law\n\nReads\nlaw.\n\nMore.", "<p>More.</p>"),
        ("# Law\n\nIt reads law well.\n", "<p>It reads law well.</p>"),
        ("# Another title\n\nReads law.", "<h2>Another title</h2>"),
        ("No heading.", "<p>No heading.</p>"),
        ("# Law", ""),
        ("", ""),
    ],
)
def test_what_the_page_says_above_is_not_said_twice(body: str, first: str) -> None:
    vector = Vector(namespace="olive", name="law")
    text = card("{title: Law, summary: Reads law.}", body)
    describe(vector, text, fields_from_card(text))
    assert vector.card_html.strip().startswith(first)
    assert bool(vector.card_html.strip()) == bool(first)


SAMPLE = """# A

*a* [b](https://example.org) `c` ~~d~~ <script>e</script>

| f | g |
|---|---|
| 1 | 2 |

```sh
h
```

1. i
   - j

> k ![l](m.png)
"""


def test_another_renderer_has_another_number() -> None:
    """Else what an older one has drawn stays as it is: count RENDERER up, and note both here."""
    drawn = hashlib.sha256(render(SAMPLE).encode()).hexdigest()[:12]
    assert (RENDERER, drawn) == (1, "77dc0bb7ebc2")


@pytest.mark.django_db
def test_what_an_older_renderer_drew_is_drawn_anew_once(
    client: Client, owner: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    card = "---\narmory: {title: Law}\n---\n# Law\n\n```sh\nhf download\n```\n"
    base = stock.foundation("lab/tiny", card)
    law = stock.vector("olive/law", owner, base, card)
    for row in (base, law):
        now = row.card_html
        assert '<pre tabindex="0">' in now
        kept = type(row).objects.filter(pk=row.pk)
        before = kept.get().updated
        kept.update(card_html="<pre>old</pre>", card_renderer=RENDERER - 1)
        assert now in client.get(row.get_absolute_url()).content.decode()
        kept_row = kept.get()
        assert (kept_row.card_html, kept_row.card_renderer) == (now, RENDERER)
        assert kept_row.updated == before, "its owner has changed nothing"
        with django_assert_num_queries(0):
            with_newest_card(kept_row)


@pytest.mark.django_db
def test_what_is_published_meanwhile_is_not_drawn_over(owner: User) -> None:
    law = stock.vector("olive/law", owner, stock.foundation("lab/tiny"), "old")
    Vector.objects.update(card_renderer=RENDERER - 1)
    looked_at = Vector.objects.get()
    describe(law, "new", {})
    law.save()
    with_newest_card(looked_at)
    assert "new" in Vector.objects.get().card_html


def test_names_in_sentences_are_code() -> None:
    assert ticked("`a.b` is <big>") == "<code>a.b</code> is &lt;big&gt;"
    assert ticked("an odd ` is left") == "an odd ` is left"


def test_languages_have_names() -> None:
    assert facet_label("language", "fr") == "French"
    assert facet_label("language", "tlh") == "tlh"
    with override("fr"):
        assert str(facet_label("language", "de")) == "Allemand"
