"""Recipes over local folders: what the command reads, and what it writes beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vectors.tensorfile.checkpoint import Checkpoint, read_json
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.forms import FULL, LORA, STEMS, detect_form
from vectors.tensorfile.lora import Adapter, read_adapter
from vectors.tensorfile.source import FileSource

from .align import TermSource
from .document import Document, Entry
from .errors import RecipeError, _
from .recipe import make_recipe
from .run import Equipment, equip

# Files of a model folder that are not carried into the result: weights, and what describes them.
LEFT_OUT = {"README.md", "recipe.yaml", "mergekit_config.yml", "probes.jsonl", ".gitattributes"}


@dataclass(frozen=True)
class LocalEquipment:
    """An equipment over folders, and the configuration files that belong to it."""

    equipment: Equipment
    extra_files: dict[str, Path]


@contextmanager
def equip_locally(document: Document, roots: list[Path]) -> Iterator[LocalEquipment]:
    """Open the folders a YAML recipe names (as given, or below one of ``roots``) and equip.

    Raises Problem when a folder, shard or tensor is missing or does not fit, before anything is
    computed. The sources are closed at the end of the ``with`` block.
    """
    with ExitStack() as stack:
        opened: dict[tuple[Path, str], Checkpoint] = {}

        def open_folder(path: Path, stem: str) -> Checkpoint:
            key = path, stem
            _weight_files(path)
            if key not in opened:
                opened[key] = stack.enter_context(_closing(Checkpoint.open_folder(path, stem)))
            return opened[key]

        target_path = _find(document.target, roots)
        foundation_path = _find(document.foundation, roots)
        target = open_folder(target_path, STEMS[FULL])
        foundation = open_folder(foundation_path, STEMS[FULL])
        terms: dict[str, TermSource] = {}
        weighted = []
        for entry in document.entries:
            source = _term(entry, document, roots, foundation_path, open_folder)
            terms[source.ref] = source
            weighted.append((source.ref, entry.weight, entry.parameters))
        out_dtype = document.out_dtype
        if out_dtype and all(
            tensor.dtype == out_dtype
            for tensor in target.tensors.values()
            if DTYPES[tensor.dtype].mergeable
        ):
            out_dtype = None
        recipe = make_recipe(
            foundation=str(foundation_path),
            target=str(target_path),
            terms=weighted,
            method=document.method,
            parameters=document.parameters,
            out_dtype=out_dtype,
            seed=document.seed,
        )
        equipment = equip(
            recipe,
            target=target,
            foundation=foundation,
            terms=[terms[term.ref] for term in recipe.terms],
        )
        yield LocalEquipment(equipment, configuration_files(Path(equipment.source)))


def configuration_files(folder: Path) -> dict[str, Path]:
    """Configuration and tokenizer files of a model folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in LEFT_OUT
        and not path.name.endswith((".safetensors", ".safetensors.index.json"))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix not in (".bin", ".pt", ".pth", ".onnx", ".h5", ".gguf")
    }


def _term(
    entry: Entry,
    document: Document,
    roots: list[Path],
    foundation: Path,
    open_folder: Callable[[Path, str], Checkpoint],
) -> TermSource:
    path = _find(entry.lora or entry.model, roots)
    form = detect_form(_weight_files(path))
    if entry.lora is not None:
        if form != LORA:
            raise RecipeError(_("%(name)s is not a LoRA adapter."), name=entry.lora)
        if _find(entry.model, roots) != foundation:
            raise RecipeError(
                _(
                    "The adapter %(lora)s is put on %(model)s, but the foundation is "
                    "%(foundation)s. All vectors of a recipe belong to one foundation."
                ),
                lora=entry.lora,
                model=entry.model,
                foundation=document.foundation,
            )
    elif form == LORA:
        raise RecipeError(
            _("%(name)s is a LoRA adapter: write it as %(base)s+%(name)s."),
            name=entry.model,
            base=document.foundation,
        )
    content: Checkpoint | Adapter = open_folder(path, STEMS[form])
    if form == LORA:
        config = read_json(FileSource(path / "adapter_config.json"))
        content = read_adapter(config, open_folder(path, STEMS[form]))
    # One folder can hold a model and an adapter: these are two things, so two references.
    ref = str(path) if form == FULL else f"{path}+{form}"
    return TermSource(ref, entry.lora or entry.model, form, content)


def _weight_files(folder: Path) -> list[str]:
    # Trainers leave pickles beside the weights (training_args.bin): they are never opened here.
    names = [item.name for item in folder.iterdir() if item.suffix in (".safetensors", ".json")]
    if not any(name.endswith(".safetensors") for name in names):
        raise RecipeError(
            _("The folder %(name)s holds no safetensors: save the model again with safetensors."),
            name=str(folder),
        )
    return names


def _find(name: str, roots: list[Path]) -> Path:
    for candidate in (Path(name).expanduser(), *(root / name for root in roots)):
        if candidate.is_dir():
            return candidate.resolve()
    raise RecipeError(
        _(
            "There is no folder %(name)s. Models are local folders here; --models says below which "
            "folder to look for them."
        ),
        name=name,
    )


@contextmanager
def _closing(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    try:
        yield checkpoint
    finally:
        checkpoint.close()
