"""Recipes over local folders: what the command reads, and what it writes beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.dtypes import DTYPES

from .document import Document, recipe_of
from .errors import MergeError, RecipeError, _
from .folders import FULL, LORA, Folders
from .kinship import check_related
from .local_files import files_beside, layers_named
from .mergekit_write import write_yaml
from .recipe import Recipe
from .run import Equipment, equip
from .stacking import equip_stack, layer_stacks, the_stack

__all__ = ["LocalEquipment", "equip_locally"]


@dataclass(frozen=True)
class LocalEquipment:
    """An equipment over folders, and the files that belong beside its weights.

    ``check_sources`` raises TensorFileError when a source was written to since it was opened.
    """

    equipment: Equipment
    extra_files: dict[str, bytes | Path]
    check_sources: Callable[[], None]
    as_yaml: Callable[[], str]


@contextmanager
def equip_locally(
    document: Document,
    roots: list[Path],
    *,
    unrelated: bool = False,
    device: str = "cpu",
    larv: bool = False,
) -> Iterator[LocalEquipment]:
    """Open the folders a recipe names (as given, or below one of ``roots``) and equip.

    With ``larv`` each vector is scaled layer by layer first (see ``merging.engine.larv``).

    Raises Problem when a folder, shard or tensor is missing or does not fit, or (unless
    ``unrelated``) when a model was not trained from the foundation, before anything is computed.
    The sources are closed at the end of the ``with`` block.
    """
    with ExitStack() as stack:
        folders = Folders(roots, stack)
        recipe = _recipe(document, folders)
        if recipe.slices:
            equipment = _equip_slices(recipe, folders, unrelated, device)
        else:
            equipment = _equip_models(recipe, folders, unrelated, device)
        if larv:
            if recipe.slices:
                raise RecipeError(_("LARV needs whole models: it does not go with slices."))
            from .larv import with_larv  # it decomposes matrices: loaded where it is wanted

            recipe = with_larv(equipment)
            equipment = _equip_models(recipe, folders, True, device)
        yield LocalEquipment(
            equipment,
            files_beside(document, equipment, folders),
            folders.check_unchanged,
            lambda: _as_yaml(recipe, folders),
        )


def _recipe(document: Document, folders: Folders) -> Recipe:
    # Foundation and target are models, whatever else their folders hold.
    target = folders.ref(document.target, FULL)
    foundation = folders.find(document.foundation)
    models = {folders.path(target), foundation}

    def ref_of(model: str, lora: str | None) -> str:
        if lora is not None:
            return _adapter(document, folders, model, lora)
        if folders.find(model) in models:
            return folders.ref(model, FULL)
        if not document.any_form and folders.form(model) == LORA:
            raise RecipeError(
                _("%(name)s is a LoRA adapter: write it as %(base)s+%(name)s."),
                name=model,
                base=document.foundation,
            )
        return folders.ref_of(model)

    if document.slices:
        from .slices import stack_of_document, unsliced

        recipe = stack_of_document(document, ref_of, folders.rule_ref)
        recipe = unsliced(recipe, lambda ref: _count(folders, ref))
    else:
        recipe = recipe_of(document, ref_of, folders.rule_ref)
    shaping = [recipe.target, *(part.recipe.target for part in recipe.slices)]
    if recipe.out_dtype and all(
        _has_dtype(folders.checkpoint(ref), recipe.out_dtype) for ref in shaping
    ):
        recipe = replace(
            recipe,
            out_dtype=None,
            slices=tuple(
                replace(part, recipe=replace(part.recipe, out_dtype=None)) for part in recipe.slices
            ),
        )
    return recipe


def _adapter(document: Document, folders: Folders, model: str, lora: str) -> str:
    if folders.form(lora) != LORA:
        raise RecipeError(_("%(name)s is not a LoRA adapter."), name=lora)
    if not document.slices and folders.find(model) != folders.find(document.foundation):
        raise RecipeError(
            _(
                "The adapter %(lora)s is put on %(model)s, but the foundation is "
                "%(foundation)s. All vectors of a recipe belong to one foundation."
            ),
            lora=lora,
            model=model,
            foundation=document.foundation,
        )
    return folders.ref(lora, LORA)


def _has_dtype(checkpoint: Checkpoint, dtype: str) -> bool:
    return all(
        tensor.dtype == dtype
        for tensor in checkpoint.tensors.values()
        if DTYPES[tensor.dtype].mergeable
    )


def _count(folders: Folders, ref: str) -> int:
    if folders.form_of(ref) == LORA:
        return -1  # an adapter may leave layers out: it has no number of its own
    expected = layers_named(folders.path(ref))
    return the_stack(folders.checkpoint(ref), ref, expected)[1]


def _equip_models(recipe: Recipe, folders: Folders, unrelated: bool, device: str) -> Equipment:
    foundation = folders.checkpoint(recipe.foundation)
    whole = [
        ref
        for ref in dict.fromkeys([recipe.target, *(term.ref for term in recipe.terms)])
        if folders.form_of(ref) == FULL and ref != recipe.foundation
    ]
    renames = [rule for rule in recipe.rules if rule.action == "rename"]
    if not renames:
        for ref in whole:
            _check_layers(folders.checkpoint(ref), ref, foundation, recipe.foundation)
    equipment = equip(
        recipe,
        target=folders.checkpoint(recipe.target),
        foundation=foundation,
        terms=[folders.source(term.ref) for term in recipe.terms],
        extras={ref: folders.source(ref) for ref in recipe.extra_sources},
        target_tokens=folders.tokens(recipe.target),
        foundation_tokens=folders.tokens(recipe.foundation),
        device=device,
    )
    if not unrelated:

        def renamed(name: str, ref: str) -> str:
            if ref == recipe.target:  # rules give the names of the target
                return name
            found = (rule.renamed(name) for rule in renames if rule.concerns(ref))
            return next((goal for goal in found if goal is not None), name)

        for ref in whole:
            check_related(
                foundation,
                folders.checkpoint(ref),
                ref,
                recipe.foundation,
                renamed if renames else None,
            )
    return equipment


def _check_layers(model: Checkpoint, label: str, foundation: Checkpoint, base: str) -> None:
    """Refuse models that are deeper or shallower than the foundation, by number."""
    own = max(layer_stacks(list(model.tensors)).values(), default=0)
    wanted = max(layer_stacks(list(foundation.tensors)).values(), default=0)
    if own and wanted and own != wanted:
        raise MergeError(
            _(
                "%(label)s has %(own)d layers and %(base)s has %(wanted)d, so they cannot be "
                "merged layer by layer. Take the layers that go together with `slices`, or say "
                "which is which with a rule (`rename … layers […]`)."
            ),
            label=label,
            own=own,
            base=base,
            wanted=wanted,
        )


def _equip_slices(recipe: Recipe, folders: Folders, unrelated: bool, device: str) -> Equipment:
    refs = list(dict.fromkeys(ref for part in recipe.slices for ref in part.layers))
    equipment = equip_stack(
        recipe,
        {ref: folders.source(ref) for ref in refs},
        expected=lambda ref: layers_named(folders.path(ref)),
        device=device,
    )
    if not unrelated:
        for part in recipe.slices:
            base = part.recipe.foundation
            for ref, layers in part.layers.items():
                # Other layers of one model are as far from each other as two models are.
                alike = layers == part.layers[base] and folders.form_of(ref) == FULL
                if alike and ref != base:
                    check_related(folders.checkpoint(base), folders.checkpoint(ref), ref, base)
    return equipment


def _as_yaml(recipe: Recipe, folders: Folders) -> str:
    largest = max(folders.checkpoint(recipe.target).tensors.values(), key=lambda each: each.count)
    return write_yaml(
        recipe, name_of=lambda ref: ref, form_of=folders.form_of, out_dtype=largest.dtype
    )
