"""The loadout: its state is its address, its buttons work without a script, nothing is lost."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpResponse, QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.engine.errors import RecipeError
from merging.engine.methods import METHODS
from merging.loadout import Analogy, Loadout, Slot, read_formula
from merging.models import EquippedModel, SavedLoadout
from merging.naming import find_target, is_foundation
from merging.services import count_equip, equip_expression
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.vectors.test_shop import folder_with
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Grant, Sketch, Vector, Visibility

words = st.text("abz09-", min_size=1, max_size=9).map(lambda text: f"a{text}z")
names = st.tuples(words, words).map("/".join)
coefficients = st.decimals(-100, 100, places=2).map(lambda value: value.normalize() + 0)
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
slots = st.builds(Slot, names, coefficients, st.booleans())


@settings(suppress_health_check=[HealthCheck.too_slow])  # two cores may be busy
@given(
    on=names,
    chosen=st.lists(slots, max_size=5, unique_by=lambda slot: slot.name),
    analogy=st.builds(Analogy, names, names, names, coefficients) | st.just(Analogy()),
    method=st.sampled_from(sorted(METHODS)),
    name=st.text(letters, max_size=20).map(str.strip),
)
def test_a_link_is_the_whole_loadout(
    on: str, chosen: list[Slot], analogy: Analogy, method: str, name: str
) -> None:
    state = Loadout(on, tuple(chosen), analogy, method, {}, name)
    again = Loadout.from_query(QueryDict(state.query()))
    assert again == state
    assert again.formula() == state.formula()


@given(chosen=st.lists(slots, min_size=1, max_size=4, unique_by=lambda slot: slot.name))
def test_the_formula_is_read_back(chosen: list[Slot]) -> None:
    state = Loadout("lab/tiny", tuple(chosen))
    if not state.terms():
        assert state.formula() == ""
        return
    read = read_formula(state.formula())
    assert read.slots[0] == Slot("lab/tiny")  # the page takes it out as the target
    assert [(slot.name, slot.coefficient) for slot in read.slots[1:]] == state.terms()


def test_what_slots_cannot_show_stays_as_it_was_typed() -> None:
    text = 'lab/tiny + ties(ann/a[density=0.3] + bo/b, density=0.2), rule="skip *.bias"'
    state = read_formula(text)
    assert state.typed == text
    assert state.formula() == text
    assert not state.slots


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e999", "1e999999999", "1000", "0x10"])
def test_a_number_that_is_none_is_one(text: str) -> None:
    state = Loadout.from_query(QueryDict(f"v=ann/a&c={text}"))
    assert state.slots[0].coefficient == 1


@pytest.mark.parametrize("text", ["inf", "1e999", "nan", "9" * 400])
def test_a_parameter_that_is_no_number_is_left_out(text: str) -> None:
    state = Loadout.from_query(QueryDict(f"v=ann/a&method=ramplus_tl&p_r={text}"))
    assert state.formula() == "ramplus_tl(ann/a)"


@pytest.fixture
def shop(owner: User, tmp_path: Path) -> Foundation:
    """lab/tiny with olive/law and olive/mood; lab/other with olive/far."""
    state = make_state(torch.float32)
    for name, seed in (("tiny", 0), ("other", 50)):
        base = make_state(torch.float32, seed=seed) if seed else state
        folder = folder_with(tmp_path / name, base)
        add_foundation(folder, repo_id=f"lab/{name}", card=f"---\nlicense: mit\n---\n# {name}\n")
    tiny, other = Foundation.objects.get(name="tiny"), Foundation.objects.get(name="other")
    for name, base, content in (
        ("law", tiny, tuned(state, 1)),
        ("mood", tiny, tuned(state, 2)),
        ("far", other, tuned(make_state(torch.float32, seed=50), 3)),
    ):
        folder = folder_with(tmp_path / f"v-{name}", content)
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# {name.title()}\n")
        add_vector(folder, repo_id=f"olive/{name}", foundation=base, owner=owner)
    return tiny


def press(client: Client, button: str, query: str) -> HttpResponse:
    """Send the loadout's form as a browser without a script does."""
    return client.post("/loadout", f"{query}&do={button}", "application/x-www-form-urlencoded")


def state_after(answer: HttpResponse) -> Loadout:
    """The loadout that the answer leads to."""
    assert answer.status_code == 302
    address = urlsplit(answer.headers["Location"])
    assert address.path == "/loadout"
    return Loadout.from_query(QueryDict(address.query))


database = pytest.mark.django_db(transaction=True)


@database
def test_an_empty_loadout_offers_the_next_step(shop: Foundation, client: Client) -> None:
    page = client.get("/loadout").content.decode()
    assert "Nothing is in the loadout yet" in page
    assert 'value="add:olive/law"' in page
    assert state_after(press(client, "add:olive/law", "")).slots == (Slot("olive/law"),)


@database
def test_each_button_changes_one_thing_and_keeps_the_rest(shop: Foundation, client: Client) -> None:
    query = "on=lab/tiny&v=olive/law&c=0.5&v=olive/mood&c=1&name=Both"
    before = state_after(press(client, "update", query))
    assert state_after(press(client, "negate:0", query)).slots[0].coefficient == Decimal("-0.5")
    removed = state_after(press(client, "remove:0", query))
    assert removed.slots == before.slots[1:]
    assert removed.name == "Both"
    for odd in ("negate:9", "remove:x", "nonsense", "add:", "remove:-1"):
        assert press(client, odd, query).status_code == 302, odd
    assert state_after(press(client, "remove:9", query)) == before


@database
@pytest.mark.parametrize("number", ["²", "９", "9" * 5000, "-1", "x", ""])
def test_a_button_of_a_slot_there_is_not_changes_nothing(
    shop: Foundation, client: Client, number: str
) -> None:
    for verb in ("remove", "negate"):
        answer = client.post("/loadout", {"v": "olive/law", "c": "1", "do": f"{verb}:{number}"})
        assert state_after(answer).slots == (Slot("olive/law"),)


@database
def test_an_address_too_long_to_read_is_a_bad_request(shop: Foundation, client: Client) -> None:
    answer = client.get("/loadout", {"v": ["olive/law"] * 1001})
    assert answer.status_code == 400
    assert "This request cannot be read" in answer.content.decode()


@database
def test_no_database_is_asked_for_the_character_0(shop: Foundation, client: Client) -> None:
    """PostgreSQL refuses it, and an address may say it."""
    state = Loadout.from_query(QueryDict("v=a%00b&on=a%00b&name=a%00b&ac=a%00b&ab=a&aa=%00"))
    assert "\0" not in repr(state)
    assert (state.on, state.name, state.slots[0].name) == ("ab", "ab", "ab")
    with CaptureQueriesContext(connection) as queries:
        for name in ("a\0b", "ann/a\0b"):
            with pytest.raises(RecipeError):
                find_target(name, AnonymousUser())
            assert not is_foundation(name)
    assert not queries.captured_queries


@database
def test_a_typed_formula_fills_the_slots(shop: Foundation, client: Client) -> None:
    state = state_after(press(client, "read", "formula=lab/tiny+%2B+0.5*olive/law+-+olive/mood"))
    assert state.on == "lab/tiny"
    assert state.slots == (Slot("olive/law", Decimal("0.5")), Slot("olive/mood", Decimal("-1")))


@database
def test_a_formula_that_cannot_be_read_is_explained_and_the_slots_stay(
    shop: Foundation, client: Client
) -> None:
    answer = press(client, "read", "on=lab/tiny&v=olive/law&c=1&formula=olive/law+%2B+%2B")
    assert state_after(answer).slots == (Slot("olive/law"),)
    assert "Expected the name of a vector here" in client.get("/loadout").content.decode()


@database
def test_equipping_makes_the_recipe_and_what_fails_comes_back(
    shop: Foundation, client: Client
) -> None:
    answer = press(client, "equip", "on=lab/tiny&v=olive/law&c=0.5&v=olive/mood&c=0.5&off=1")
    row = EquippedModel.objects.get()
    assert answer.headers["Location"] == f"{row.get_absolute_url()}?start=1"
    assert [term.version.vector.name for term in row.terms.all()] == ["law"]
    state = state_after(press(client, "equip", "on=lab/tiny&v=olive/far&c=1"))
    assert state.slots == (Slot("olive/far"),)
    page = client.get("/loadout").content.decode()
    assert "does not fit lab/tiny" in page
    assert EquippedModel.objects.count() == 1


@database
def test_what_does_not_fit_stays_in_sight_with_the_reason(shop: Foundation, client: Client) -> None:
    page = client.get("/loadout?on=lab/tiny&v=olive/far&c=1").content.decode()
    assert page.count("it does not fit tiny") == 2, "in its slot, and in the inventory"
    assert 'value="equip" aria-disabled="true"' in page


@database
def test_the_forecast_follows_the_query(shop: Foundation, client: Client) -> None:
    both = client.get("/loadout/forecast?on=lab/tiny&v=olive/law&c=1&v=olive/mood&c=1")
    assert "Each against each" in both.content.decode()
    opposite = client.get("/loadout/forecast?on=lab/tiny&v=olive/law&c=0.5").content.decode()
    assert "Each against each" not in opposite
    assert "lab/tiny + 0.5*olive/law" in opposite


@database
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v=olive/law&c=0.5&v=olive/mood&c=0.5", "v=olive/law&c=1&v=olive/mood&c=1&p_lambda=0.5"),
        ("v=olive/law&c=0.5&v=olive/mood&c=0.5", "v=olive/law&c=1&v=olive/mood&c=1&method=linear"),
        ("v=olive/law&c=0.75", "typed=task_arithmetic(olive/law, lambda=0.75)"),
        ("v=olive/law&c=1", "v=olive/law&c=4&p_normalize=true"),
    ],
)
def test_the_size_is_that_of_the_sum_as_it_is_computed(
    one: str, other: str, shop: Foundation, client: Client
) -> None:
    sizes = []
    for query in (one, other):
        page = client.get(f"/loadout/forecast?on=lab/tiny&{query}").content.decode()
        sizes.append(re.findall(r'size-meter"[^>]* value="([\d.]+)"', page))
    assert sizes[0] == sizes[1] != []


def strip_of(page: str) -> list[str]:
    """The bars of the sum's strip, as they are read aloud."""
    (strip,) = re.findall(r'aria-label="Strength of the sum per layer">(.*?)</ol>', page, re.DOTALL)
    return re.findall(r'<span class="hush">([^<]*)</span>', strip)


@database
def test_a_typed_sum_of_hundreds_is_not_looked_into(shop: Foundation, client: Client) -> None:
    for names in ("olive/law " * 250, "".join(f"a{number} " for number in range(700))):
        typed = "+".join(names.split())[:4000].rstrip("+a")
        with CaptureQueriesContext(connection) as queries:
            answer = client.get("/loadout/forecast", {"typed": typed})
        assert answer.status_code == 200
        assert len(queries) < 20
        assert "Each against each" not in answer.content.decode()


@database
def test_the_strip_of_the_sum_follows_the_coefficients(shop: Foundation, client: Client) -> None:
    def bars(query: str, path: str = "/loadout/forecast") -> list[str]:
        return strip_of(client.get(f"{path}?on=lab/tiny&{query}").content.decode())

    whole, half = bars("v=olive/law&c=1"), bars("v=olive/law&c=0.5")
    law = Vector.objects.get(name="law").current
    assert law is not None
    assert whole == [f"{row['label']}: {row['ratio']:.2%}" for row in law.layers]
    assert half != whole
    assert bars("v=olive/law&c=0.5", "/loadout") == half, "the same without a script"
    assert bars("v=olive/law&c=1&v=olive/mood&c=1&off=1") == whole
    assert bars("v=olive/law&c=1&v=olive/mood&c=1") != whole
    typed = "/loadout?on=lab/tiny&typed=lab/tiny+%2B+olive/law+-+olive/law"
    cancelled = client.get(typed).content.decode()
    assert set(strip_of(cancelled)) == {f"{row['label']}: 0.00%" for row in law.layers}
    assert "Nowhere: what the vectors change cancels" in cancelled
    Sketch.objects.all().delete()
    assert "Where the sum acts" not in client.get("/loadout?v=olive/law&c=1").content.decode()


def names_in(page: str) -> list[str]:
    """What can be added."""
    return re.findall(r'value="add:([^"]*)"', page)


@database
def test_the_inventory_is_found_by_words(shop: Foundation, client: Client) -> None:
    query = "on=lab/tiny&v=olive/law&c=0.5"
    assert names_in(client.get(f"/loadout?{query}").content.decode()) == ["olive/mood"]
    for path in ("/loadout", "/loadout/inventory"):
        found = client.get(f"{path}?{query}&q=MOOD").content.decode()
        assert names_in(found) == ["olive/mood"]
        assert "1 vector found" in found
        nothing = client.get(f"{path}?{query}&q=law").content.decode()  # it is in the loadout
        assert names_in(nothing) == []
        assert "No other vector that fits has all of these words." in nothing
        assert f'href="/loadout?{query.replace("&", "&amp;")}#inventory"' in nothing
        other = client.get(f"{path}?{query}&q=far").content.decode()
        assert "it does not fit tiny" in other
    page = client.get(f"/loadout?{query}&q=mood").content.decode()
    assert page.count('value="mood"') == 2, "its own field and what was searched; not the site's"
    every = client.get("/loadout/inventory").content.decode()
    assert set(names_in(every)) == {"olive/law", "olive/mood", "olive/far"}
    full = client.get(f"/loadout?{query}&v=olive/mood&c=1").content.decode()
    assert "Everything that fits is in the loadout." in full
    Vector.objects.update(visibility=Visibility.PRIVATE)
    assert "No vector fits yet." in client.get("/loadout?on=lab/tiny").content.decode()


@database
def test_a_search_without_a_script_keeps_the_loadout_and_leads_to_what_it_found(
    shop: Foundation, client: Client
) -> None:
    query = "on=lab/tiny&v=olive/law&c=0.5&name=Mine"
    state = state_after(press(client, "update", query))
    for button in ("search", "update"):  # the button, and Return in the field
        answer = press(client, button, f"{query}&q=mood&searched=")
        assert state_after(answer) == state
        assert answer.headers["Location"].endswith("&q=mood#inventory")
    # Who changes something else stays where it is, and the words stay, too.
    again = press(client, "update", f"{query}&q=mood&searched=mood")
    assert again.headers["Location"].endswith("&q=mood")
    added = press(client, "add:olive/mood", f"{query}&q=mood&searched=mood")
    assert added.headers["Location"].endswith("&q=mood")
    cleared = press(client, "search", f"{query}&q=+&searched=mood")
    assert "q=" not in cleared.headers["Location"]
    assert cleared.headers["Location"].endswith("#inventory")


@database
def test_the_inventory_shows_only_what_one_may_see(
    shop: Foundation,
    client: Client,
    owner_client: Client,
    buyer: User,
    buyer_client: Client,
    stranger_client: Client,
) -> None:
    mood = Vector.objects.get(name="mood")
    Vector.objects.filter(pk=mood.pk).update(visibility=Visibility.PRIVATE)
    Grant.objects.create(user=buyer, vector=mood)
    for path in ("/loadout", "/loadout/inventory"):
        for visitor, sees in (
            (owner_client, True),
            (buyer_client, True),
            (stranger_client, False),
            (client, False),
        ):
            page = visitor.get(f"{path}?on=lab/tiny&q=mood").content.decode()
            assert ("olive/mood" in names_in(page)) is sees
            assert ("Mood" in page) is sees


@database
def test_a_search_leaves_the_analogy_its_choices(shop: Foundation, client: Client) -> None:
    query = "on=lab/tiny&ac=olive/law&ab=olive/mood&aa=olive/gone"
    page = client.get(f"/loadout?{query}&q=nothing").content.decode()
    chosen = re.findall(r'<option value="(olive/[^"]*)" selected>', page)
    assert chosen == ["olive/law", "olive/mood", "olive/gone"], "nothing that was chosen is lost"


@database
def test_more_vectors_need_no_more_queries(
    shop: Foundation, owner: User, client: Client, tmp_path: Path
) -> None:
    query = "on=lab/tiny&v=olive/law&c=0.5&v=olive/mood&c=1"
    addresses = [
        f"/loadout?{query}",
        f"/loadout?{query}&q=title",
        f"/loadout/inventory?{query}&q=title",
        f"/loadout/forecast?{query}",
    ]

    def counted() -> list[int]:
        counts = []
        for address in addresses:
            client.get(address)
            with CaptureQueriesContext(connection) as queries:
                assert client.get(address).status_code == 200
            counts.append(len(queries))
        return counts

    few = counted()
    for number in range(8):
        folder = folder_with(tmp_path / f"more-{number}", tuned(make_state(torch.float32), number))
        add_vector(folder, repo_id=f"olive/title{number}", foundation=shop, owner=owner)
    found = client.get(addresses[1]).content.decode()
    assert len(names_in(found)) == 8
    assert counted() == few


@database
def test_what_is_private_is_as_absent_as_what_never_was(shop: Foundation, client: Client) -> None:
    Vector.objects.filter(name="mood").update(visibility=Visibility.PRIVATE)
    query = "on=lab/tiny&v=olive/mood&c=1&v=olive/nothing&c=1"
    page = client.get(f"/loadout?{query}").content.decode()
    assert "There is no vector called <code>olive/mood</code> here." in page
    assert "There is no vector called <code>olive/nothing</code> here." in page
    assert "Mood" not in page


@database
def test_a_loadout_is_kept_under_an_address_of_its_own(
    shop: Foundation, owner_client: Client, stranger_client: Client, client: Client
) -> None:
    query = "on=lab/tiny&v=olive/law&c=0.5&name=Mine"
    assert "/accounts/login/" in press(client, "save", query).headers["Location"]
    address = press(owner_client, "save", query).headers["Location"]
    assert press(owner_client, "save", query).headers["Location"] == address
    for visitor in (client, stranger_client):
        page = visitor.get(address).content.decode()
        assert "Mine" in page
        assert "olive/law" in page
    assert stranger_client.post(f"{address}/delete").status_code == 404
    assert SavedLoadout.objects.count() == 1
    assert owner_client.post(f"{address}/delete").status_code == 302
    assert owner_client.get(address).status_code == 404


@database
def test_a_button_that_is_pressed_twice_counts_once(
    shop: Foundation, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = equip_expression("olive/law", on="", user=owner)
    monkeypatch.setattr(QuerySet, "exists", lambda _rows: False)  # neither sees the other
    for _press in range(2):
        count_equip(row, user=owner, visit="")
    row.refresh_from_db()
    assert (row.equips, Vector.objects.get(name="law").equips) == (1, 1)


@database
def test_a_mix_that_a_licence_forbids_is_refused(
    shop: Foundation, client: Client, owner_client: Client
) -> None:
    Vector.objects.filter(name="mood").update(license="cc-by-nd-4.0")
    query = "on=lab/tiny&v=olive/law&c=0.5&v=olive/mood&c=0.5"
    page = client.get(f"/loadout?{query}").content.decode()
    assert "This mix is not allowed" in page
    press(client, "equip", query)
    assert not EquippedModel.objects.exists()
    assert "allows no derived works" in client.get("/loadout").content.decode()
    page = owner_client.get(f"/loadout?{query}").content.decode()
    assert "This mix is not allowed" not in page
    assert not re.search(r'value="equip"[^>]* aria-disabled', page)
    assert "Not to be passed on as it is" in page
    press(owner_client, "equip", query)
    assert EquippedModel.objects.exists(), "what is one's own, one may mix as one likes"
