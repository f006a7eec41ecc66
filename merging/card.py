"""The model card and the recipe file of an equipped model. The same recipe gives the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from merging.engine.kernels import KERNEL
from merging.engine.mergekit_write import write_yaml
from merging.engine.methods import get_method
from merging.models import EquippedModel, EquippedTerm
from vectors.cards import read_card, text_of
from vectors.models import Foundation, Version


@dataclass(frozen=True)
class Part:
    """What a card says of one part: it is written once, when the recipe is made, because a commit
    never changes while a vector may get another name, a new version or another licence."""

    repo_id: str
    number: int | None
    license: str


def parts_data(
    foundation: Foundation, target: Version | None, versions: Sequence[Version]
) -> list[dict[str, Any]]:
    """The parts of a recipe for its row: the foundation, the target, then each term's version."""
    first = Part(foundation.repo_id, None, foundation.license)
    rest = [_part(version) for version in ([target] if target else []) + [*versions]]
    return [asdict(part) for part in [first, *rest]]


def _part(version: Version) -> Part:
    own = text_of(read_card(version.card).data.get("license"), 60).lower()
    vector = version.vector
    return Part(str(vector), version.number, own or (vector.license if vector else ""))


def parts_of(row: EquippedModel) -> list[Part]:
    """What was written of the parts: the foundation, the target where it is another, the terms."""
    data = row.report.get("parts")
    if data is None:
        data = parts_data(row.foundation, row.target, [term.version for term in row.terms.all()])
    return [Part(**each) for each in data]


def target_part(row: EquippedModel) -> Part:
    """What the vectors are put on."""
    return parts_of(row)[1 if row.target_id else 0]


def term_parts(row: EquippedModel) -> list[tuple[EquippedTerm, Part]]:
    """Each term with its part."""
    return list(zip(row.terms.all(), parts_of(row)[2 if row.target_id else 1 :], strict=True))


def formula(row: EquippedModel) -> str:
    """``all-MiniLM-L6-v2 + 1 · ann/spam-filter − 0.5 · bo/movie-mood``"""
    parts = [target_id(row).rsplit("/", 1)[-1]]
    for term, part in term_parts(row):
        parts.append(f"{term.sign} {term.magnitude} · {part.repo_id}")
    return " ".join(parts)


def target_id(row: EquippedModel) -> str:
    """Repository id of what the vectors are put on."""
    return target_part(row).repo_id


def licenses(row: EquippedModel) -> list[tuple[str, str]]:
    """(repository id, licence) of every part; an empty licence means nobody said."""
    return [(part.repo_id, part.license) for part in parts_of(row)]


def common_license(row: EquippedModel) -> str:
    """The one licence all parts share, else ``other``."""
    names = {name for _repo, name in licenses(row)}
    return names.pop() if len(names) == 1 and "" not in names else "other"


def recipe_yaml(row: EquippedModel) -> str:
    """The recipe in mergekit's syntax, readable by ``python -m merging`` too."""
    recipe = row.recipe
    names = {recipe.foundation: row.foundation.repo_id, recipe.target: target_id(row)}
    forms = {recipe.target: "full"}
    for term, (stored, part) in zip(recipe.terms, term_parts(row), strict=True):
        names.setdefault(term.ref, part.repo_id)
        forms.setdefault(term.ref, stored.version.form)
    text = write_yaml(
        recipe,
        name_of=names.__getitem__,
        form_of=lambda ref: forms.get(ref, "full"),
        out_dtype=row.foundation.dtype,
    )
    return f"# {formula(row)}\n# recipe {row.hash}\n{text}"


def readme(row: EquippedModel) -> str:
    """The README.md of the equipped repository: front matter a hub understands, and the recipe."""
    recipe = row.recipe
    method = get_method(recipe.method)
    source = read_card(row.foundation.card).data
    terms, target = term_parts(row), target_part(row)
    bases = list(dict.fromkeys([target.repo_id, *(part.repo_id for _term, part in terms)]))
    front: dict[str, Any] = {
        "base_model": bases,
        "base_model_relation": "merge",
        "library_name": text_of(source.get("library_name")) or "transformers",
        "license": common_license(row),
        "tags": ["merge", "task-vector"],
    }
    if row.foundation.pipeline_tag:
        front["pipeline_tag"] = row.foundation.pipeline_tag
    front["armory"] = {"recipe": row.hash, "kernel": KERNEL}
    licence = target.license or "not stated"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        f"# {row.repo_id}",
        "",
        f"    {formula(row)}",
        "",
        "Equipped by Armory: task vectors added to a model without data and without training.",
        "",
        "| part | coefficient | version | licence | digest |",
        "|---|---|---|---|---|",
        f"| {target.repo_id} (target) | | | {licence} | `{recipe.target[:16]}` |",
    ]
    for term, part in terms:
        lines.append(
            f"| {part.repo_id} | {term.coefficient_text} | v{part.number} "
            f"| {part.license or 'not stated'} | `{term.version.digest[:16]}` |"
        )
    lines += [
        "",
        f"Method: {method.title} (`{method.name}`, {method.source}), {method.formula}.",
        "",
        "## Reproduce",
        "",
        "Put the parts into folders of their names and run the engine on the recipe beside",
        "this file; the weights come out byte for byte the same.",
        "",
        "```sh",
        "python -m merging recipe.yaml OUT --models FOLDER",
        "```",
        "",
        "## Licences",
        "",
        "The result is bound by the licences of all its parts:",
        "",
        *(f"- {repo}: {name or 'not stated'}" for repo, name in licenses(row)),
        "",
    ]
    return "\n".join(lines)
