"""The model card and the recipe file of an equipped model. The same recipe gives the same text."""

from __future__ import annotations

from typing import Any

import yaml

from merging.engine.kernels import KERNEL
from merging.engine.mergekit_write import write_yaml
from merging.engine.methods import get_method
from merging.models import EquippedModel, EquippedTerm
from vectors.cards import read_card, text_of


def formula(row: EquippedModel) -> str:
    """``all-MiniLM-L6-v2 + 1 · ann/spam-filter − 0.5 · bo/movie-mood``"""
    parts = [target_id(row).rsplit("/", 1)[-1]]
    for term in row.terms.all():
        parts.append(f"{term.sign} {term.magnitude} · {version_id(term)}")
    return " ".join(parts)


def target_id(row: EquippedModel) -> str:
    """Repository id of what the vectors are put on."""
    if row.target is not None:
        return str(row.target.vector)
    return row.foundation.repo_id


def version_id(term: EquippedTerm) -> str:
    """Repository id of a term's vector."""
    return str(term.version.vector)


def licenses(row: EquippedModel) -> list[tuple[str, str]]:
    """(repository id, licence) of every part; an empty licence means nobody said."""
    parts = [(row.foundation.repo_id, row.foundation.license)]
    if row.target is not None and row.target.vector is not None:
        parts.append((row.target.vector.repo_id, row.target.vector.license))
    for term in row.terms.all():
        if term.version.vector is not None:
            parts.append((term.version.vector.repo_id, term.version.vector.license))
    return parts


def common_license(row: EquippedModel) -> str:
    """The one licence all parts share, else ``other``."""
    names = {name for _repo, name in licenses(row)}
    return names.pop() if len(names) == 1 and "" not in names else "other"


def recipe_yaml(row: EquippedModel) -> str:
    """The recipe in mergekit's syntax, readable by ``python -m merging`` too."""
    recipe = row.recipe
    names = {recipe.foundation: row.foundation.repo_id, recipe.target: target_id(row)}
    forms = {recipe.target: "full"}
    for term, stored in zip(recipe.terms, row.terms.all(), strict=True):
        names.setdefault(term.ref, version_id(stored))
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
    bases = list(dict.fromkeys([target_id(row), *(version_id(term) for term in row.terms.all())]))
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
        f"| {target_id(row)} (target) | | | {_target_license(row)} | `{recipe.target[:16]}` |",
    ]
    for term in row.terms.all():
        vector = term.version.vector
        assert vector is not None
        lines.append(
            f"| {vector.repo_id} | {term.coefficient_text} | v{term.version.number} "
            f"| {vector.license or 'not stated'} | `{term.version.digest[:16]}` |"
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


def _target_license(row: EquippedModel) -> str:
    if row.target is not None and row.target.vector is not None:
        return row.target.vector.license or "not stated"
    return row.foundation.license or "not stated"
