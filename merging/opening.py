"""From rows to opened bytes: the engine's inputs for a recipe of the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django.conf import settings

from merging.engine.align import TermSource
from merging.engine.kernels import KERNEL
from merging.engine.recipe import Recipe
from merging.engine.results import FolderResults
from merging.engine.run import Equipment, equip
from merging.models import EquippedModel
from vectors.files import open_version, open_weights
from vectors.models import Foundation, Version


@contextmanager
def opened_recipe(
    recipe: Recipe, foundation: Foundation, target: Version | None, versions: Sequence[Version]
) -> Iterator[Equipment]:
    """Open everything ``recipe`` reads and lay it out; closed at the end of the block.

    ``versions`` are those of the recipe's terms, in order. Raises Problem when they do not fit.
    """
    with ExitStack() as stack:
        base = open_weights(foundation)
        stack.callback(base.close)
        onto = base
        if target is not None:
            _form, _content, onto = open_version(target)
            stack.callback(onto.close)
        sources = []
        for term, version in zip(recipe.terms, versions, strict=True):
            if term.ref == recipe.target:
                sources.append(TermSource(term.ref, str(version), "full", onto))
                continue
            form, content, checkpoint = open_version(version)
            stack.callback(checkpoint.close)
            sources.append(TermSource(term.ref, str(version), form, content))
        yield equip(
            recipe, target=onto, foundation=base, terms=sources, results=kept_results(recipe)
        )


def kept_results(recipe: Recipe) -> FolderResults:
    """Where the updates of a whole-tensor method are kept, so that each is computed once."""
    identity = hashlib.sha256(f"{recipe.hash}\n{KERNEL}".encode()).hexdigest()
    return FolderResults(Path(settings.ARMORY_RESULTS), identity)


@contextmanager
def opened_equipped(row: EquippedModel) -> Iterator[Equipment]:
    """``opened_recipe`` for a stored recipe."""
    versions = [term.version for term in row.terms.select_related("version__vector")]
    with opened_recipe(row.recipe, row.foundation, row.target, versions) as equipment:
        yield equipment
