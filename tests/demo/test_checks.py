"""The lecture's operations on real weights, by held-out items, as the tables of checks say.

Each number of a table is computed a second time by `demo.merges`' plain torch arithmetic and
`demo.evaluate`'s own reading of the items: no engine, no runner, no probe parser.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from demo import text
from demo.evaluate import embed, predict_texts, read_probes
from demo.merges import delta, put
from merging.checks import running
from merging.checks.models import Measured
from merging.checks.services import start_check, start_sweep
from merging.engine.local import equip_locally
from merging.engine.mergekit import read_yaml
from merging.engine.run import write_model
from merging.models import EquippedModel
from merging.services import equip_expression
from tests.merging.checks.conftest import DEMO, FOLDERS, MINILM, first, shelve, stock, version
from vectors.importing import add_vector
from vectors.leases import JobState

# Committed for real: a lease is renewed by a thread with a connection of its own.
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

NAMES = (
    "spam-filter", "wordnet-topics", "language-id", "movie-mood", "topic-x-en", "topic-x-fr",
    "topic-y-en", "topic-y-fr",
)  # fmt: skip
ITEMS = 160  # of each probe: half of them, for the time it takes
KEPT: dict[tuple[str, str], list[int]] = {}  # what one test has measured is known to the next


@pytest.fixture
def shop(db: None) -> Iterator[None]:
    shelve(stock(MINILM, ITEMS), *NAMES, items=ITEMS)
    Measured.objects.bulk_create(
        Measured(model=m, probe=p, scores=scores) for (m, p), scores in KEPT.items()
    )
    yield
    KEPT.update({(row.model, row.probe): row.scores for row in Measured.objects.all()})


Check = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def check(shop: None, buyer: User) -> Check:
    """``check(expression, on=…, also=…)``: the rows of the table by the ability's name."""

    def run(expression: str, on: str = "", also: tuple[str, ...] = ()) -> dict[str, Any]:
        row = equip_expression(expression, on=on, user=buyer)
        job = start_check(row, buyer, also=[version(name) for name in also])
        running.run_ability_check(job.pk)
        job.refresh_from_db()
        assert (job.state, job.result.get("problems")) == (JobState.DONE, [])
        return {found["name"]: found for found in job.result["abilities"]}

    return run


class Plainly:
    """Sums of the stored vectors in plain torch, and how many held-out items they get right."""

    def __init__(self) -> None:
        self.base, self.tokenizer = text.load_foundation()
        self.model = copy.deepcopy(self.base)
        self.before = {name: t.clone() for name, t in self.base.state_dict().items()}

    def right(self, terms: dict[str, float], of: str) -> int:
        deltas = {name: delta(self.base, text.load(folder(name))[0]) for name in terms}
        put(self.model, self.before, deltas, terms)
        head, items = read_probes(folder(of) / "probes.jsonl", ITEMS)
        heads = embed(self.base, self.tokenizer, list(head["labels"].values()))
        inputs = [item["input"] for item in items]
        found = predict_texts(self.model, self.tokenizer, heads, list(head["labels"]), inputs)
        return sum(a == item["expected"] for a, item in zip(found, items, strict=True))


def folder(name: str) -> Path:
    (found,) = DEMO.glob(f"vectors/*/{name}")
    return found


@pytest.fixture(scope="module")
def plainly() -> Plainly:
    return Plainly()


def share(row: dict[str, Any], model: str = "equipped") -> float:
    return float(row["scores"][model]["share"])


def alone(name: str) -> str:
    return f"alone-{version(name).digest[:16]}"


def test_addition_keeps_nine_tenths_of_each_gain(check: Check, plainly: Plainly) -> None:
    found = check("spam-filter + wordnet-topics")
    for name, title in (("spam-filter", "Spam"), ("wordnet-topics", "Word topics")):
        row = found[title]
        assert (row["role"], row["verdict"]) == ("term", "learned")
        assert row["kept_share"] >= 0.9
        both = {"spam-filter": 1.0, "wordnet-topics": 1.0}
        expected = {
            "target": plainly.right({}, name),
            alone(name): plainly.right({name: 1.0}, name),
            "equipped": plainly.right(both, name),
        }
        assert {model: row["scores"][model]["correct"] for model in expected} == expected
        gain = (expected["equipped"] - expected["target"]) / (
            expected[alone(name)] - expected["target"]
        )
        assert row["kept_share"] == pytest.approx(gain, abs=1e-4)


def test_subtraction_takes_the_ability_to_chance_and_leaves_the_rest(
    check: Check, plainly: Plainly
) -> None:
    found = check("-1 * language-id", on=MINILM, also=("movie-mood",))
    language = found["Language"]
    assert language["verdict"] == "forgotten"
    score = language["scores"]["equipped"]
    assert score["low"] <= language["chance"] <= score["high"]
    assert share(language, "target") > language["chance"] + 0.3
    assert score["correct"] == plainly.right({"language-id": -1.0}, "language-id")
    for title, role in (("Matching descriptions", "control"), ("Movie mood", "asked")):
        assert found[title]["role"] == role
        assert found[title]["verdict"] == "kept"
        assert found[title]["change"] >= -0.03
    assert found["Movie mood"]["scores"]["equipped"]["correct"] == plainly.right(
        {"language-id": -1.0}, "movie-mood"
    )


def test_another_fine_tune_keeps_what_it_can_and_learns(
    check: Check, plainly: Plainly, tmp_path: Path, owner: User
) -> None:
    """The chat vector's case: θ′ is a full fine-tune with an ability of its own."""
    recipe = f"merge_method: task_arithmetic\nbase_model: {FOLDERS[MINILM]}\nmodels:\n"
    recipe += f"  - model: {FOLDERS[MINILM]}+{folder('language-id')}\n"
    with equip_locally(read_yaml(f"{recipe}    parameters: {{weight: 1}}\n"), []) as local:
        write_model(local.equipment, tmp_path / "polyglot", {})
    probes = (folder("language-id") / "probes.jsonl").read_bytes()
    (tmp_path / "polyglot/probes.jsonl").write_bytes(first(probes, ITEMS))
    foundation = version("language-id").foundation
    assert foundation is not None
    add_vector(tmp_path / "polyglot", repo_id="olive/polyglot", foundation=foundation, owner=owner)
    found = check("wordnet-topics", on="olive/polyglot")
    language, topics = found["Language"], found["Word topics"]
    assert (language["role"], language["verdict"]) == ("target", "kept")
    assert (topics["role"], topics["verdict"]) == ("term", "learned")
    without = plainly.right({}, "language-id") / language["n"]
    gained = share(language, "target") - without
    assert (share(language) - without) / gained >= 0.9
    assert topics["kept_share"] >= 0.9
    both = {"language-id": 1.0, "wordnet-topics": 1.0}
    for row, name in ((language, "language-id"), (topics, "wordnet-topics")):
        # The stored fine-tune was rounded once on the way: one item may lie on the edge.
        assert abs(row["scores"]["equipped"]["correct"] - plainly.right(both, name)) <= 1


def test_an_analogy_is_no_worse_than_its_nearest_vector_alone(
    check: Check, plainly: Plainly
) -> None:
    found = check("topic-y-en + 0.5 * (topic-x-fr - topic-x-en)", also=("topic-y-fr",))
    french = found["Graphics to administration, French"]
    terms = {"topic-y-en": 1.0, "topic-x-fr": 0.5, "topic-x-en": -0.5}
    analogy, c = share(french), share(french, alone("topic-y-en"))
    foundation = share(french, "target")
    assert analogy >= c
    assert c >= foundation + 0.1
    assert analogy >= foundation + 0.1
    assert french["verdict"] == "learned"
    assert french["scores"]["equipped"]["correct"] == plainly.right(terms, "topic-y-fr")


def test_a_sweep_names_the_setting_that_keeps_most(shop: None, buyer: User) -> None:
    row: EquippedModel = equip_expression("spam-filter + wordnet-topics", on="", user=buyer)
    job = start_sweep(row, [["0.3", "0.3"], ["1", "1"]], buyer)
    running.run_sweep(job.pk)
    job.refresh_from_db()
    curves = {curve["name"]: curve for curve in job.result["curves"]}
    best = job.result["best"]
    losses = [
        curves["Matching descriptions"]["target"]["share"] - point["share"]
        for point in curves["Matching descriptions"]["points"]
    ]
    kept = [min(pair) for pair in zip(curves["Spam"]["kept"], curves["Word topics"]["kept"],
                                      strict=True)]  # fmt: skip
    assert kept[0] < kept[1], "the full sum keeps more"
    within = [index for index, loss in enumerate(losses) if loss <= 0.03 + 1e-9]
    assert best["within"] == bool(within)
    expected = max(within, key=kept.__getitem__) if within else losses.index(min(losses))
    assert best["index"] == expected
    assert math.isclose(best["control_loss"], max(0, losses[expected]), abs_tol=1e-3)
