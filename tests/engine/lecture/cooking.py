"""The recipes of the pages in docs/examples, equipped on tiny checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load

from merging.engine.align import TermSource
from merging.engine.document import Document
from merging.engine.expression import parse_expression
from merging.engine.local import equip_locally
from merging.engine.mergekit import read_yaml
from merging.engine.notation import document_of_expression
from merging.engine.recipe import Recipe
from merging.engine.report import Report
from merging.engine.rules import Rule
from merging.engine.run import Equipment, stream
from tests.engine.models import State, same

PAGES = Path(__file__).parents[3] / "docs" / "examples"


@dataclass
class Dish:
    """An equipped model: its tensors, what the report says, and the files beside it."""

    recipe: Recipe
    tensors: State
    report: Report
    files: dict[str, bytes | Path]


def recipes_of(page: str) -> list[str]:
    """The YAML of a page, as a reader would copy it."""
    text = (PAGES / page).read_text("utf-8")
    return re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def expressions_of(page: str) -> list[str]:
    """The expressions of a page."""
    text = (PAGES / page).read_text("utf-8")
    return re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def cook(root: Path, recipe: str | Document) -> Dish:
    """Equip a recipe in YAML on the folders below ``root``, as the command does.

    Every tensor must be accounted for.
    """
    document = read_yaml(recipe) if isinstance(recipe, str) else recipe
    with equip_locally(document, [root]) as local:
        equipment = local.equipment
        equipment.report.refuse_losses()
        assert_accounted(equipment)
        return Dish(equipment.recipe, tensors_of(equipment), equipment.report, local.extra_files)


def assert_same_recipe(root: Path, recipe: str, expression: str) -> None:
    """YAML and expression of a page are one recipe."""
    found = cook(root, document_of_expression(parse_expression(expression)))
    assert found.recipe == cook(root, recipe).recipe


def tensors_of(equipment: Equipment) -> State:
    """The result, as the safetensors package reads it."""
    (file,) = equipment.model.files.values()
    return load(b"".join(stream(file)))


def assert_accounted(equipment: Equipment) -> None:
    """The report says what happened to every tensor of target and terms, once."""
    report, target = equipment.report, equipment.target
    listed = [name for names in report.cases.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == {tensor.name for tensor in equipment.plan}
    assert set(target.tensors) <= set(listed) | set(report.removed)
    assert not set(listed) & set(report.removed)
    for term in equipment.terms:
        losses = (report.dropped, report.left_out, report.unfounded, report.tied)
        told = {name for kind in losses for name in kind.get(term.label, ())}
        for name in term.names:
            own = term.content is target  # never renamed
            goal = name if own else _goal(name, term, equipment.recipe.rules, report)
            assert goal in {*listed, *report.removed} or name in told, f"{term.label}: {name}"
    assert [each["rule"] for each in report.rules] == [r.text for r in equipment.recipe.rules]


def _goal(name: str, term: TermSource, rules: Sequence[Rule], report: Report) -> str:
    for rule in rules:
        if rule.action == "rename" and rule.concerns(term.ref):
            found = rule.renamed(name)
            if found is not None:
                return found
    prefix = report.renamed.get(term.label, "")
    return prefix[1:] + name if prefix.startswith("+") else name.removeprefix(prefix[1:])


def added(target: torch.Tensor, *terms: tuple[float, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """θ_target + Σ w (θ_tuned − θ): products and sums in float32, in order, rounded once."""
    total = torch.zeros(target.shape)
    for weight, fine, base in terms:
        total = total + weight * (fine.float() - base.float())
    return (target.float() + total).bfloat16()


def averaged(*models: tuple[float, torch.Tensor]) -> torch.Tensor:
    """Σ w θ / Σ w, in float32, rounded once."""
    total = torch.zeros(models[0][1].shape)
    for weight, model in models:
        total = total + weight * model.float()
    return (total / sum(weight for weight, _model in models)).bfloat16()


def assert_equal(found: State, expected: State) -> None:
    """The same names, and bit for bit the same tensors."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert same(found[name], value), name
