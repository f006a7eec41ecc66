"""From rows to opened bytes: the engine's inputs for a recipe of the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from merging.engine.align import TermSource
from merging.engine.kernels import KERNEL
from merging.engine.recipe import Recipe
from merging.engine.results import FolderResults
from merging.engine.run import Equipment, equip
from merging.engine.tokens import TABLES, TOKENIZER_FILES, Vocabulary, read_tokens
from merging.models import EquippedModel
from vectors.files import called, open_version, open_weights
from vectors.models import Foundation, Version
from vectors.storage.current import storage
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.source import ByteSource


@contextmanager
def opened_recipe(
    recipe: Recipe, foundation: Foundation, target: Version | None, versions: Sequence[Version]
) -> Iterator[Equipment]:
    """Open everything ``recipe`` reads and lay it out; closed at the end of the block.

    ``versions`` are those of the recipe's terms, in order. Raises Problem when they do not fit.
    """
    by_token = any(rule.action == "map" or rule.rows for rule in recipe.rules)
    read = vocabulary_of if by_token else lambda _owner, _label: None
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
                tokens = read(version, str(version))
                sources.append(TermSource(term.ref, str(version), "full", onto, tokens))
                continue
            form, content, checkpoint = open_version(version)
            stack.callback(checkpoint.close)
            tokens = read(version, str(version))
            sources.append(TermSource(term.ref, str(version), form, content, tokens))
        foundation_tokens = read(foundation, str(foundation))
        target_tokens = read(target, str(target)) if target is not None else None
        yield equip(
            recipe,
            target=onto,
            foundation=base,
            terms=sources,
            target_tokens=target_tokens or foundation_tokens,
            foundation_tokens=foundation_tokens,
            results=kept_results(recipe),
        )


def stored_dtype(owner: Foundation | Version) -> str:
    """The type that every floating-point tensor of ``owner`` has; nothing where they differ."""
    if isinstance(owner, Foundation):
        found = {dtype for dtype, _shape, _square in owner.manifest.values()}
    else:
        _form, _content, checkpoint = open_version(owner)
        with closing(checkpoint):
            found = {tensor.dtype for tensor in checkpoint.tensors.values()}
    found = {dtype for dtype in found if DTYPES[dtype].mergeable}
    return found.pop() if len(found) == 1 else ""


def vocabulary_of(owner: Foundation | Version, label: str) -> Callable[[], Vocabulary] | None:
    """Reads the tokenizer of ``owner`` where a rule asks for it; None where it has none.

    A version that came without one has none here: the engine then takes the foundation's.
    """
    files = tuple(
        (file.path, file.blob_id) for file in owner.files.all() if file.path in TOKENIZER_FILES
    )
    if not any(path in TABLES for path, _blob in files):
        return None
    return lambda: _read_vocabulary(files, label)


@lru_cache(maxsize=8)
def _read_vocabulary(files: tuple[tuple[str, str], ...], label: str) -> Vocabulary:
    with ExitStack() as stack:
        opened: dict[str, ByteSource] = {}
        for path, blob in files:
            opened[path] = called(path, storage().open(blob))
            stack.callback(opened[path].close)
        return read_tokens(opened, label=label)


def kept_results(recipe: Recipe) -> FolderResults:
    """Where the updates of a whole-tensor method are kept, so that each is computed once."""
    identity = hashlib.sha256(f"{recipe.hash}\n{KERNEL}".encode()).hexdigest()
    folder, limit = Path(settings.ARMORY_RESULTS), settings.ARMORY_RESULTS_BYTES
    return FolderResults(folder, identity, limit)


@contextmanager
def opened_equipped(row: EquippedModel) -> Iterator[Equipment]:
    """``opened_recipe`` for a stored recipe."""
    versions = [term.version for term in row.terms.select_related("version__vector")]
    with opened_recipe(row.recipe, row.foundation, row.target, versions) as equipment:
        yield equipment
