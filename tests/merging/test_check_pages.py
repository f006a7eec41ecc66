"""The pages of checks and sweeps: who may do what, what is shown, how a job is followed."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.http import QueryDict
from django.test import AsyncClient, Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries
from safetensors.torch import save_file

from merging.check_context import table_of
from merging.checks.models import AbilityCheck, CoefficientSweep
from merging.checks.plan import abilities_of, models_of, setting_of
from merging.checks.services import set_controls
from merging.checks.sweep_table import best_of, curves_of
from merging.checks.table import rows_of, shape_of
from merging.checks.together import go_together
from merging.events import Pace
from merging.loadout import Loadout
from merging.models import EquippedModel
from merging.reopening import loadout_url
from merging.services import equip_expression
from merging.sweep_context import SHOWN
from merging.templatetags.checks import verified_together
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import client_of
from vectors.claims import rename
from vectors.importing import add_foundation, add_vector
from vectors.leases import JobState
from vectors.models import Access, Foundation, Grant, Vector, Visibility

ITEMS = 40
PROBE = '{"probe": "%s", "kind": "zero-shot", "labels": {"yes": "a yes", "no": "a no"}}\n'
ITEM = '{"input": "%s %d", "expected": "yes"}\n'


def probe(name: str) -> str:
    return PROBE % name + "".join(ITEM % (name, n) for n in range(ITEMS))


@pytest.fixture
def tiny(db: None, tmp_path: Path) -> Foundation:
    (tmp_path / "tiny").mkdir()
    save_file(make_state(torch.float32), tmp_path / "tiny/model.safetensors")
    return add_foundation(tmp_path / "tiny", repo_id="lab/tiny", card="---\nlicense: mit\n---\n")


@pytest.fixture
def vectors(tiny: Foundation, owner: User, tmp_path: Path) -> dict[str, Vector]:
    """olive/law, olive/mood, olive/news and olive/old, each with a probe of its name."""
    found = {}
    for seed, name in enumerate(("law", "mood", "news", "old"), 1):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tuned(make_state(torch.float32), seed), folder / "model.safetensors")
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# {name}\n")
        (folder / "probes.jsonl").write_text(probe(name))
        version = add_vector(folder, repo_id=f"olive/{name}", foundation=tiny, owner=owner)
        assert version.vector is not None
        found[name] = version.vector
    return found


Equip = Callable[[str], EquippedModel]


@pytest.fixture
def equip(vectors: dict[str, Vector], owner: User) -> Equip:
    return lambda expression: equip_expression(expression, on="", user=owner)


@pytest.fixture
def row(equip: Equip) -> EquippedModel:
    return equip("0.5 * law + 0.5 * mood")


def answers(right: int) -> list[int]:
    return [1] * right + [0] * (ITEMS - right)


def measured(row: EquippedModel, right: dict[tuple[str, str], int], *also: Any) -> AbilityCheck:
    """A check that has ended: ``right`` answers of 40 by (ability, model); 20 where none is said.
    Models are ``target``, ``equipped`` or the name of a vector alone."""
    abilities = abilities_of(row, also)
    models = models_of(row, abilities)
    names = {m.key: m.key if m.key in ("target", "equipped") else m.label for m in models}
    names = {key: re.sub(r"olive/(\w+) v1", r"\1", name) for key, name in names.items()}
    scores = {
        (a.key, key): answers(right.get((a.probe.name, name), 20))
        for a in abilities
        for key, name in names.items()
    }
    rows = rows_of(abilities, list(names), scores)
    terms = list(row.terms.all())
    job = AbilityCheck.objects.create(
        equipped=row,
        state=JobState.DONE,
        result={
            "measured": "2026-01-02T03:04:05+00:00",
            "shape": shape_of([term.coefficient for term in terms]),
            "models": [{"key": model.key, "label": model.label} for model in models],
            "abilities": rows,
            "together": go_together(rows, [(str(t.version), t.coefficient) for t in terms]),
            "problems": [],
        },
    )
    job.also.set(also)
    return job


GOOD = {("law", "law"): 39, ("law", "equipped"): 37, ("mood", "mood"): 38, ("mood", "equipped"): 36}


def page(client: Client, row: EquippedModel, query: str = "") -> str:
    answer = client.get(row.get_absolute_url() + query)
    assert answer.status_code == 200
    return answer.content.decode()


# --- starting, following, stopping -----------------------------------------------------------


def test_who_is_not_signed_in_is_asked_to(client: Client, row: EquippedModel) -> None:
    for action, section in (("check", "abilities"), ("sweep", "sweep")):
        answer = client.post(f"{row.get_absolute_url()}/{action}")
        assert answer["Location"] == f"/accounts/login/?next=/equipped/{row.slug}%23{section}"
    assert "Sign in to check its abilities" in page(client, row)
    assert not AbilityCheck.objects.exists()
    assert not CoefficientSweep.objects.exists()


def test_a_check_is_started_followed_and_stopped(
    buyer_client: Client, stranger_client: Client, row: EquippedModel
) -> None:
    start = f"{row.get_absolute_url()}/check"
    assert buyer_client.post(start)["Location"] == f"{row.get_absolute_url()}#abilities"
    AbilityCheck.objects.update(
        state=JobState.RUNNING, stage="asking", done_bytes=30, total_bytes=120
    )
    for look, following in (("", 1), ("?look=1", 2)):
        html = page(buyer_client, row, look)
        assert "Asking the models" in html
        assert "30 of 120 answers" in html
        again = f"{row.get_absolute_url()}?look={following}#abilities"
        assert f'<noscript><meta http-equiv="refresh" content="3; url={again}">' in html
        assert 'data-say="Asking the models, 25 %"' in html
    moving = buyer_client.get(f"{row.get_absolute_url()}/checks/check").content.decode()
    assert "30 of 120 answers" in moving
    assert "<main" not in moving
    assert "Stop the check" not in page(stranger_client, row), "it is not theirs"
    stop = f"{row.get_absolute_url()}/checks/check/stop"
    answer = stranger_client.post(stop, follow=True)
    assert "Only who started a check may stop it." in answer.content.decode()
    assert not AbilityCheck.objects.get().cancelled
    buyer_client.post(stop)
    assert AbilityCheck.objects.get().cancelled


def test_a_check_that_failed_says_why_and_can_be_started_again(
    buyer_client: Client, row: EquippedModel, buyer: User
) -> None:
    sentence = "The program that runs the models was killed, most likely for want of memory."
    AbilityCheck.objects.create(equipped=row, state=JobState.FAILED, error=sentence)
    html = page(buyer_client, row)
    assert sentence in html
    assert "Check again" in html
    ended = buyer_client.get(f"{row.get_absolute_url()}/checks/check")
    assert (ended.status_code, ended["HX-Refresh"]) == (204, "true")
    buyer_client.post(f"{row.get_absolute_url()}/check")
    assert AbilityCheck.objects.get().state == JobState.QUEUED
    assert "Waiting for its turn" in page(buyer_client, row)


def test_what_cannot_be_asked_is_refused_in_a_sentence(
    buyer_client: Client, row: EquippedModel
) -> None:
    url = f"{row.get_absolute_url()}/check"
    html = buyer_client.post(url, {"also": "olive/nothing"}, follow=True).content.decode()
    assert "There is no vector called <code>olive/nothing</code> here." in html
    assert not AbilityCheck.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_events_tell_how_a_job_goes_until_it_ends(row: EquippedModel, buyer: User) -> None:
    job = AbilityCheck.objects.create(
        equipped=row, state=JobState.RUNNING, stage="asking", done_bytes=10, total_bytes=40
    )

    async def listen() -> list[tuple[str, dict[str, Any]]]:
        client, found = AsyncClient(), []
        await client.aforce_login(buyer)
        answer = await client.get(f"/equipped/{row.slug}/checks/check/events")
        assert answer["Content-Type"] == "text/event-stream"
        assert "no-store" in answer["Cache-Control"]
        async for piece in answer.streaming_content:  # type: ignore[union-attr]
            name = re.search(r"^event: (\w+)$", piece.decode(), re.M)
            if name is None:
                continue
            data = re.search(r"^data: (.*)$", piece.decode(), re.M)
            assert data is not None
            found.append((name[1], json.loads(data[1])))
            if len(found) == 1:
                await sync_to_async(AbilityCheck.objects.filter(pk=job.pk).update)(done_bytes=20)
            else:
                await sync_to_async(AbilityCheck.objects.filter(pk=job.pk).update)(
                    state=JobState.FAILED, error="It was stopped."
                )
        return found

    found = asyncio.run(listen())
    assert [(name, data["done"]) for name, data in found[:2]] == [
        ("progress", 10),
        ("progress", 20),
    ]
    name, last = found[-1]
    assert (name, last["ended"], last["said"]) == ("ended", True, "It was stopped.")
    assert len(found) == 3, "nothing is said twice"


@pytest.mark.django_db(transaction=True)
def test_who_listens_holds_no_thread(row: EquippedModel) -> None:
    AbilityCheck.objects.create(equipped=row, state=JobState.RUNNING)
    listeners = 24
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": f"/equipped/{row.slug}/checks/check/events",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }

    async def listen() -> int:
        site = ASGIHandler()
        before = threading.active_count()
        talks = [ApplicationCommunicator(site, scope) for _ in range(listeners)]
        for talk in talks:
            await talk.send_input({"type": "http.request"})
        for talk in talks:
            assert (await talk.receive_output(30))["status"] == 200
            await talk.receive_output(30)  # how soon to connect again
            assert b"event: progress" in (await talk.receive_output(30))["body"]
        held = threading.active_count() - before
        await sync_to_async(AbilityCheck.objects.update)(state=JobState.DONE)
        for talk in talks:
            assert b"event: ended" in (await talk.receive_output(30))["body"]
            await talk.wait(30)
        return held

    held = asyncio.run(listen())
    assert held < listeners / 2, "a few threads are shared, whatever the number of listeners"


def test_the_pace_says_nothing_before_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("merging.events.time.monotonic", lambda: now[0])
    pace = Pace()
    assert pace.left(50, 1000) == "", "what was known before one looked says nothing of the pace"
    now[0] += 10
    assert pace.left(250, 1000) == "about 40 s left"
    now[0] += 10
    assert pace.left(150, 6000) == "about 20 min left"


# --- who may ---------------------------------------------------------------------------------

CLOSED: list[tuple[str, str]] = [
    ("get", ""),
    ("post", "/check"),
    ("post", "/sweep"),
    ("get", "/checks"),
    ("get", "/checks/check"),
    ("get", "/checks/check/events"),
    ("post", "/checks/check/stop"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_check_is_as_closed_as_its_recipe(
    row: EquippedModel,
    vectors: dict[str, Vector],
    owner_client: Client,
    buyer: User,
    stranger_client: Client,
    method: str,
    path: str,
) -> None:
    measured(row, GOOD)
    Vector.objects.filter(name="mood").update(visibility=Visibility.PRIVATE)
    url = row.get_absolute_url() + path
    assert getattr(stranger_client, method)(url).status_code == 404
    assert getattr(Client(), method)(url).status_code == 404
    assert getattr(owner_client, method)(url).status_code in (200, 204, 302, 422)
    Grant.objects.create(user=buyer, vector=vectors["mood"])
    assert getattr(client_of(buyer), method)(url).status_code in (200, 204, 302, 422)
    Vector.objects.filter(name="mood").update(visibility=Visibility.PUBLIC, access=Access.MANUAL)
    assert getattr(stranger_client, method)(url).status_code == 403


def test_there_is_no_job_before_one_is_started(owner_client: Client, row: EquippedModel) -> None:
    for job in ("check", "0123456789ab"):
        for path in ("", "/events"):
            url = f"{row.get_absolute_url()}/checks/{job}{path}"
            assert owner_client.get(url).status_code == 404
        assert owner_client.post(f"{row.get_absolute_url()}/checks/{job}/stop").status_code == 404


def test_probes_of_a_private_vector_are_shown_to_who_may_know_of_it(
    row: EquippedModel, vectors: dict[str, Vector], owner: User, client: Client
) -> None:
    news = vectors["news"].current
    job = measured(row, GOOD, news)
    assert "news v1" in page(client, row)
    Vector.objects.filter(name="news").update(visibility=Visibility.PRIVATE)
    assert "news" not in page(client, row)
    names = [
        each["name"] for group in table_of(job, row, owner)["groups"] for each in group["rows"]
    ]
    assert names == ["law", "mood", "news"]


@pytest.mark.parametrize("name", ["ancient", "News"])
def test_probes_of_a_vector_that_was_renamed_are_as_private(
    name: str, row: EquippedModel, vectors: dict[str, Vector], owner: User, client: Client
) -> None:
    job = measured(row, GOOD, vectors["news"].current)
    rename(vectors["news"], name=name)
    assert "news v1" in page(client, row)
    Vector.objects.filter(name=name).update(visibility=Visibility.PRIVATE)
    assert "news" not in page(client, row)
    groups = table_of(job, row, owner)["groups"]
    assert [each["name"] for group in groups for each in group["rows"]] == ["law", "mood", "news"]


# --- the table -------------------------------------------------------------------------------


def test_the_table_has_every_number_with_its_n_and_its_interval(
    client: Client, row: EquippedModel
) -> None:
    measured(row, {**GOOD, ("mood", "equipped"): 4, ("mood", "mood"): 38})
    html = page(client, row)
    table = html[html.index('<table class="table checked">') :]
    table = table[: table.index("</table>")]
    for text in ("0.500", "0.975", "0.925", "+0.425", "0.80–0.97", "n = 40", "learned", "89 %"):
        assert text in table, text
    assert re.search(r"verdict-reverse\">reversed", table), "4 of 40 are below chance"
    assert "verified together" not in html
    assert re.findall(r'<th scope="col"[^>]*>([^<]+)', table)[1:5] == [
        "tiny", "law", "mood", "equipped",
    ]  # fmt: skip


def test_what_could_not_be_measured_is_said_with_its_reason(
    client: Client, row: EquippedModel
) -> None:
    job = measured(row, GOOD)
    job.result["problems"] = [
        {
            "model": "equipped",
            "ability": "law",
            "template": "`%(file)s` is missing.",
            "params": {"file": "tokenizer.json"},
        }
    ]
    job.save()
    html = page(client, row)
    assert "1 measurement is missing" in html
    assert "<b>law</b>, equipped: <code>tokenizer.json</code> is missing." in html


def test_an_analogy_shows_what_it_starts_from_beside_the_result(
    equip: Equip, vectors: dict[str, Vector], owner: User
) -> None:
    row = equip("law + 0.5 * mood - 0.5 * news")
    old = vectors["old"].current
    job = measured(row, {("old", "law"): 25, ("old", "equipped"): 33}, old)
    table = table_of(job, row, owner)
    assert [column["label"] for column in table["columns"]] == [
        "tiny", "mood", "news", "law", "equipped",
    ]  # fmt: skip
    (pair,) = table["pairs"]
    assert (pair["from"], pair["without"], pair["with_"], pair["n"]) == (
        "law",
        "0.625",
        "0.825",
        40,
    )


def test_a_subtraction_shows_its_controls_beside_the_ability(
    equip: Equip, owner: User, vectors: dict[str, Vector], tiny: Foundation
) -> None:
    set_controls(tiny, probe("everyday").encode())
    row = equip("- law")
    job = measured(row, {("law", "target"): 38, ("law", "equipped"): 21})
    table = table_of(job, row, owner)
    shown = [(p["name"], p["control"], p["without"], p["with_"]) for p in table["pairs"]]
    assert shown == [("law", False, "0.950", "0.525"), ("everyday", True, "0.500", "0.500")]
    assert [group["role"] for group in table["groups"]] == ["term", "control"]


# --- together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "together"),
    [
        ({}, True),
        ({("mood", "equipped"): 22}, False),  # not learned
        ({("mood", "mood"): 40, ("mood", "equipped"): 29, ("law", "law"): 40}, False),  # under half
        ({("everyday", "target"): 39}, False),  # a control is lost
    ],
)
def test_when_vectors_go_together(
    row: EquippedModel, tiny: Foundation, change: dict[Any, int], together: bool
) -> None:
    set_controls(tiny, probe("everyday").encode())
    assert measured(row, {**GOOD, **change}).result["together"] is together


def test_what_is_taken_away_was_not_verified_together(equip: Equip) -> None:
    assert measured(equip("law - mood"), GOOD).result["together"] is False


def test_the_shelves_say_what_was_verified_together_in_one_question(
    row: EquippedModel,
    vectors: dict[str, Vector],
    client: Client,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    measured(row, GOOD)
    shelves = [{"vectors": list(vectors.values())}, {"vectors": [vectors["law"]]}]
    with django_assert_num_queries(1):
        found = verified_together(shelves)
    url = row.get_absolute_url()
    assert found == {vectors["law"].current_id: url, vectors["mood"].current_id: url}
    for address in ("/vectors", "/vectors?q=law", "/", "/olive/law", "/lab/tiny"):
        assert f'href="{url}">verified together' in client.get(address).content.decode(), address
    Vector.objects.filter(name="mood").update(visibility=Visibility.PRIVATE)
    assert verified_together(shelves) == {}, "it would tell of the private one"


# --- sweeps ----------------------------------------------------------------------------------


def test_a_sweep_keeps_signs_and_what_it_does_not_sweep(equip: Equip, buyer_client: Client) -> None:
    row = equip("0.5 * law - 0.5 * mood")
    url = f"{row.get_absolute_url()}/sweep"
    form = {"which": "all", "low": "0.3", "high": "1", "steps": "2"}
    assert "?sweep=" in buyer_client.post(url, form)["Location"]
    assert CoefficientSweep.objects.latest("pk").settings == [["0.3", "-0.3"], ["1", "-1"]]
    buyer_client.post(url, {**form, "which": "1", "low": "0", "steps": "3"})
    assert CoefficientSweep.objects.latest("pk").settings == [
        ["0.5", "0"], ["0.5", "-0.5"], ["0.5", "-1"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": "10"}, "less than or equal to 9"),
        ({"low": "much"}, "Enter a number."),
        ({"low": "1"}, "both are 1."),
    ],
)
def test_a_sweep_that_makes_no_sense_says_so_and_loses_nothing(
    row: EquippedModel, buyer_client: Client, wrong: dict[str, str], sentence: str
) -> None:
    form = {"which": "all", "low": "0.35", "high": "1", "steps": "8"} | wrong
    answer = buyer_client.post(f"{row.get_absolute_url()}/sweep", form)
    assert answer["Location"].startswith(f"{row.get_absolute_url()}?which=all&low=")
    assert answer["Location"].endswith("#sweep")
    html = buyer_client.get(answer["Location"]).content.decode()
    assert sentence in html
    assert all(f'value="{form[name]}"' in html for name in ("low", "high", "steps"))
    assert not CoefficientSweep.objects.exists()


def test_a_sweep_that_is_refused_keeps_its_form(
    row: EquippedModel, buyer_client: Client, settings: Any
) -> None:
    settings.ARMORY_CHECKS_AT_ONCE = 0
    form = {"which": "1", "low": "0.35", "high": "1", "steps": "8"}
    answer = buyer_client.post(f"{row.get_absolute_url()}/sweep", form, follow=True)
    html = answer.content.decode()
    assert "This site runs no checks" in html
    assert '<option value="1" selected>' in html
    assert all(f'value="{form[name]}"' in html for name in ("low", "high", "steps"))


@pytest.fixture
def swept(row: EquippedModel) -> CoefficientSweep:
    """0.3, 0.6 and 1 for both: law rises, mood falls at the end."""
    settings = [["1", "1"], ["0.3", "0.3"], ["0.6", "0.6"]]
    decimals = [[Decimal(text) for text in setting] for setting in settings]
    models = [setting_of(row, n, setting) for n, setting in enumerate(decimals)]
    abilities = abilities_of(row)
    right = {"law": [39, 24, 36], "mood": [26, 25, 37]}
    scores = {
        (a.key, model.key): answers(right[a.probe.name][n])
        for a in abilities
        for n, model in enumerate(models)
    }
    scores |= {(a.key, "target"): answers(20) for a in abilities}
    scores |= {(a.key, a.alone): answers(39) for a in abilities}
    keys = [model.key for model in models]
    return CoefficientSweep.objects.create(
        equipped=row,
        key="ab" * 32,
        state=JobState.DONE,
        settings=settings,
        result={
            "measured": "2026-01-02T03:04:05+00:00",
            "settings": settings,
            "curves": curves_of(abilities, keys, scores),
            "best": best_of(abilities, decimals, keys, scores),
            "problems": [],
        },
    )


def test_a_sweep_is_shown_however_many_came_after_it(
    row: EquippedModel, swept: CoefficientSweep, client: Client
) -> None:
    for number in range(SHOWN):
        CoefficientSweep.objects.create(
            equipped=row, key=f"{number}" * 64, settings=[["0.1", "0.1"], ["0.2", "0.2"]]
        )
    assert "swept" in page(client, row, "?sweep=abababababab")
    assert "swept" not in page(client, row, "?sweep=0000"), "it has not run yet"
    for unknown in ("ffff", "%25"):
        assert page(client, row, f"?sweep={unknown}")


def test_a_sweep_is_a_picture_and_a_table_and_its_best_opens_as_a_loadout(
    client: Client, row: EquippedModel, swept: CoefficientSweep, owner: User
) -> None:
    html = page(client, row, "?sweep=abababababab")
    assert html.count('role="img" aria-labelledby="curve-') == 2
    assert "law along the coefficient</title>" in html
    assert "at coefficients from 0.3 to 1: 0.600, 0.900, 0.975." in html, "in the axis' order"
    table = html[html.index('<table class="table swept">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r'scope="row" class="mono">([\d.]+)', table) == ["0.3", "0.6", "1"]
    assert re.search(r'class="best-row"><th scope="row" class="mono">0.6 ', table)
    assert "Its weakest ability keeps 84 % of its own gain" in html
    link = re.search(r'href="(/loadout\?[^"]+)">Open it as a loadout', html)
    assert link is not None
    state = Loadout.from_query(QueryDict(link[1].partition("?")[2].replace("&amp;", "&")))
    assert state.formula() == "lab/tiny + 0.6*olive/law + 0.6*olive/mood"
    assert client.get(link[1].replace("&amp;", "&")).status_code == 200


@pytest.mark.parametrize(
    ("expression", "slots"),
    [
        ("law", True),
        ("0.5 * law - 1.25 * mood", True),
        ("lab/tiny + ties(law + 0.7*mood, density=0.3)", True),
        ("olive/news + law - mood", True),
        ('lab/tiny + law, rule="keep layers.0.*"', False),
        ("lab/tiny + dare_ties(law + mood, density=0.3, seed=7)", False),
    ],
)
def test_the_loadout_of_a_recipe_makes_that_recipe(
    equip: Equip, owner: User, expression: str, slots: bool
) -> None:
    row = equip(expression)
    state = Loadout.from_query(QueryDict(loadout_url(row).partition("?")[2]))
    assert bool(state.slots) is slots
    again = equip_expression(state.formula(), on=state.on, user=owner)
    assert again.pk == row.pk, state.formula()


def test_the_page_links_to_its_loadout_and_shows_its_card(
    client: Client, row: EquippedModel
) -> None:
    html = page(client, row)
    assert (
        'href="/loadout?on=lab/tiny&amp;v=olive/law&amp;v=olive/mood&amp;c=0.5&amp;c=0.5"' in html
    )
    assert "Equipped by Armory: task vectors added to a model" in html
    assert reverse("equipped_zip", args=[row.slug]) in html
