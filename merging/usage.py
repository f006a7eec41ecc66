"""Code to take along from the page of an equipped model."""

from __future__ import annotations

from merging.models import EquippedModel
from merging.services import parts_of
from merging.spelling import id_of, revision_of
from vectors.access import is_open
from vectors.errors import _
from vectors.usage import Model, Snippet, Usage, loading


def of_equipped(row: EquippedModel, *, endpoint: str) -> Usage:
    """How to load a recipe: by its address, by the one it spells, as files."""
    model, revision = Model.of(row.foundation), revision_of(row)
    target = row.target.vector if row.target is not None and row.target.vector else row.foundation
    token = not all(map(is_open, parts_of(row)))
    snippets = loading(model, row.repo_id)
    spelled = id_of(row)
    if spelled:
        by_name = snippets[0].code.replace(row.repo_id, spelled)
        snippets.append(Snippet(_("by name"), by_name))
    if '"' not in revision:
        (by_sum, *_rest) = loading(model, target.repo_id, revision)
        snippets.append(Snippet(_("as a revision"), by_sum.code))
    snippets.append(Snippet("hf", f"hf download {row.repo_id}"))
    if not token:
        zipped = f"curl -fL {endpoint}/{row.repo_id}.zip -o {row.slug}.zip"
        snippets.append(Snippet("curl", zipped))
    return Usage(endpoint, token, snippets)
