"""A written recipe (a Document) against the catalogue: what it may say, and whom it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from merging.engine.document import Document, Entry
from merging.engine.errors import RecipeError, _
from merging.engine.mergekit import base_is_input
from merging.engine.methods import get_method
from merging.naming import find_foundation, find_version
from vectors.models import Foundation, Version


def check_supported(document: Document) -> None:
    """Refuse what an equipped repository would leave out: a key that is silently ignored is a
    wrong model."""
    if document.slices:
        raise RecipeError(
            _("Slices cannot be equipped here: `python -m merging` computes them from folders.")
        )
    files = document.files
    keys = {
        "tokenizer_source": files.tokenizer_source not in (None, "base", document.target),
        "tokenizer.pad_to_multiple_of": files.pad_to_multiple_of is not None,
        "chat_template": files.chat_template is not None,
        "armory.chat_template_from": files.chat_template_from not in (None, document.target),
        "armory.configuration_from": files.configuration_from not in (None, document.target),
    }
    for key, refused in keys.items():
        if refused:
            raise RecipeError(
                _(
                    "`%(key)s` cannot be equipped here: the result has the tokenizer and the "
                    "configuration of what the vectors are put on. Leave it out, or use "
                    "`python -m merging`."
                ),
                key=key,
            )


def part_name(entry: Entry) -> str:
    """The name that an entry of the recipe goes by: an adapter's own where it stands behind the
    model that it is put on."""
    return entry.lora or entry.model


def find_part(entry: Entry, user: Any) -> Version:
    """The version that an entry means. Raises RecipeError."""
    version = find_version(part_name(entry), user)
    if entry.lora is not None and version.form != "lora":
        raise RecipeError(_("%(name)s is not a LoRA adapter."), name=entry.lora)
    return version


def named_ground(document: Document) -> tuple[str, str]:
    """The names of foundation and target, empty where nobody gave one.

    Where all models are merged alike and none is named as the base, the engine takes the first for
    it; in the catalogue the foundation of the models is known.
    """
    base, onto = document.foundation, document.target
    first = document.entries[0].model if document.entries else ""
    alike = base_is_input(get_method(document.method)) and base == onto == first
    if alike and find_foundation(base) is None:
        return "", ""
    return base, onto


def check_adapters(document: Document, foundation: Foundation) -> None:
    """``model+adapter``: all vectors of a recipe belong to its foundation."""
    for entry in document.entries:
        if entry.lora is not None and find_foundation(entry.model) != foundation:
            raise RecipeError(
                _(
                    "The adapter %(lora)s is put on %(model)s, but the foundation is "
                    "%(foundation)s. All vectors of a recipe belong to one foundation."
                ),
                lora=entry.lora,
                model=entry.model,
                foundation=foundation.repo_id,
            )


def rule_reference(known: Mapping[str, str], user: Any) -> Callable[[str], str]:
    """References for the names in rules: only what is in the recipe can be meant."""

    def reference(name: str) -> str:
        if name in known:
            return known[name]
        try:
            digest = find_version(name, user).digest
        except RecipeError:
            digest = ""
        if digest not in known.values():
            raise RecipeError(
                _("A rule names %(name)s, which is no part of the recipe."), name=name[:120]
            )
        return digest

    return reference
