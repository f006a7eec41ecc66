"""Models as local folders: found by the names of a recipe, opened once, closed together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from vectors.tensorfile.checkpoint import Checkpoint, read_json
from vectors.tensorfile.forms import DELTA, FULL, LORA, STEMS, detect_form
from vectors.tensorfile.lora import Adapter, read_adapter
from vectors.tensorfile.source import ByteSource, FileSource

from .align import TermSource
from .errors import RecipeError, _

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

SMALL_FILES = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer


class Folders:
    """The folders of one recipe.

    A reference is the name by which the recipe first speaks of a folder, so a recipe is the same
    one on every machine. A folder that is a model and an adapter is two things, with a reference
    each.
    """

    def __init__(self, roots: list[Path], stack: ExitStack) -> None:
        self._roots = roots
        self._stack = stack
        self._refs: dict[tuple[Path, str], str] = {}
        self._things: dict[str, tuple[Path, str]] = {}
        self._opened: dict[tuple[Path, str], Checkpoint] = {}

    def find(self, name: str) -> Path:
        """The folder called ``name``, as given or below one of the roots. Raises RecipeError."""
        for candidate in (Path(name).expanduser(), *(root / name for root in self._roots)):
            if candidate.is_dir():
                return candidate.resolve()
        raise RecipeError(
            _(
                "There is no folder %(name)s. Models are local folders here; --models says below "
                "which folder to look for them."
            ),
            name=name,
        )

    def ref(self, name: str, form: str) -> str:
        """The reference of the folder ``name`` read as ``form``."""
        thing = self.find(name), form
        if thing not in self._refs:
            ref = name if name not in self._things else f"{name}+{form}"
            self._refs[thing] = ref
            self._things[ref] = thing
        return self._refs[thing]

    def ref_of(self, name: str) -> str:
        """The reference of a model or vector, whatever its form is."""
        bare, plus, form = name.rpartition("+")
        if plus and form in (DELTA, LORA):
            return self.ref(bare, form)
        return self.ref(name, self.form(name))

    def rule_ref(self, name: str) -> str:
        """The reference that a rule means: what the recipe already uses of the folder, if any."""
        if name in self._things:
            return name
        path = self.find(name) if "+" not in name else None
        for form in (FULL, LORA, DELTA):
            if path is not None and (path, form) in self._refs:
                return self._refs[path, form]
        return self.ref_of(name)

    def form(self, name: str) -> str:
        """The form of the folder ``name``: full, delta or lora. Raises Problem."""
        return detect_form(_weight_files(self.find(name)))

    def path(self, ref: str) -> Path:
        """The folder of a reference."""
        return self._things[ref][0]

    def form_of(self, ref: str) -> str:
        """The form of a reference."""
        return self._things[ref][1]

    def checkpoint(self, ref: str) -> Checkpoint:
        """The opened weights of a reference. Raises Problem."""
        path, form = thing = self._things[ref]
        _weight_files(path)
        if thing not in self._opened:
            found = Checkpoint.open_folder(path, STEMS[form])
            self._stack.callback(found.close)
            self._opened[thing] = found
        return self._opened[thing]

    def source(self, ref: str) -> TermSource:
        """The model or vector of a reference, opened. Raises Problem."""
        path, form = self._things[ref]
        content: Checkpoint | Adapter = self.checkpoint(ref)
        if form == LORA:
            config = read_json(FileSource(path / "adapter_config.json"))
            content = read_adapter(config, self.checkpoint(ref))
        return TermSource(ref, ref, form, content, self.tokens(ref))

    def tokens(self, ref: str) -> Callable[[], Vocabulary]:
        """Reads the vocabulary of a reference when it is called, once."""
        return cache(partial(_read_vocabulary, self.path(ref), ref))

    def check_unchanged(self) -> None:
        """Raise TensorFileError when a weight file was written to since it was opened."""
        for checkpoint in self._opened.values():
            for shard in checkpoint.shards:
                if isinstance(shard.source, FileSource):
                    shard.source.check_unchanged()


def small_files(folder: Path) -> dict[str, ByteSource]:
    """Configuration and tokenizer files right in ``folder``."""
    return {
        path.name: FileSource(path, f"{folder.name}/{path.name}")
        for path in sorted(folder.iterdir())
        if path.suffix in SMALL_FILES and path.is_file()
    }


def _read_vocabulary(folder: Path, label: str) -> Vocabulary:
    from .vocabulary import read_tokens  # vocabularies are read only where somebody asks

    return read_tokens(small_files(folder), label=label)


def _weight_files(folder: Path) -> list[str]:
    # Trainers leave pickles beside the weights (training_args.bin): they are never opened here.
    names = [item.name for item in folder.iterdir() if item.suffix in (".safetensors", ".json")]
    if not any(name.endswith(".safetensors") for name in names):
        raise RecipeError(
            _("The folder %(name)s holds no safetensors: save the model again with safetensors."),
            name=str(folder),
        )
    return names


__all__ = ["FULL", "LORA", "SMALL_FILES", "Folders", "small_files"]
