"""The files beside the weights: configuration, tokenizer and chat template of a merged folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vectors.tensorfile.checkpoint import read_json
from vectors.tensorfile.names import VOCABULARY
from vectors.tensorfile.source import FileSource, MemorySource

from .document import Document
from .dtype_names import NAMES
from .errors import MergeError, RecipeError, _
from .folders import FULL, SMALL_FILES, Folders, small_files
from .run import Equipment
from .stacking import configured_count, stacked_config
from .template import carry_template

# Files of a model folder that are not carried into the result: weights, and what describes them.
LEFT_OUT = {
    "README.md", "recipe.yaml", "mergekit_config.yml", "probes.jsonl", "controls.jsonl",
    ".gitattributes",
}  # fmt: skip
_TOKENIZER = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
}  # fmt: skip
_SUPPORTED = _(
    "Supported are `base`, a model of the recipe with the same vocabulary, and `union` where no "
    "vocabulary differs; rows can be matched by token with rules (`map`, `take … rows`)."
)


def files_beside(
    document: Document, equipment: Equipment, folders: Folders
) -> dict[str, bytes | Path]:
    """Files of the result by path. Raises RecipeError for a tokenizer that does not fit."""
    wanted = document.files
    source = folders.path(equipment.source)
    if wanted.configuration_from is not None:
        source = folders.find(wanted.configuration_from)
    files: dict[str, bytes | Path] = dict(configuration_files(source))
    _put_tokenizer(files, document, equipment, folders, source)
    _check_padding(wanted.pad_to_multiple_of, equipment)
    config = _config(files.get("config.json"))
    if config is not None:
        changed = _configured(config, equipment, folders)
        if changed != config:
            files["config.json"] = _json(changed)
    if wanted.chat_template_from is not None:
        files.update(_template_from(wanted.chat_template_from, files, folders))
    if wanted.chat_template is not None:
        files["chat_template.jinja"] = wanted.chat_template.encode()
        about = _config(files.get("tokenizer_config.json"))
        if about is not None and "chat_template" in about:
            # Older readers look there first.
            about["chat_template"] = wanted.chat_template
            files["tokenizer_config.json"] = _json(about)
    return files


def _template_from(
    name: str, files: Mapping[str, bytes | Path], folders: Folders
) -> dict[str, bytes]:
    """Chat template and end mark of the model ``name``, as files of the result."""
    own = {
        path: MemorySource(content if isinstance(content, bytes) else content.read_bytes(), path)
        for path, content in files.items()
        if path.endswith(SMALL_FILES)
    }
    return carry_template(own, small_files(folders.find(name)), label=name)


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


def config_of(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder; empty where there is none."""
    return _config(folder / "config.json") or {}


def layers_named(folder: Path) -> int | None:
    """The number of layers that a folder's configuration names."""
    return configured_count(config_of(folder))


def _config(file: bytes | Path | None) -> dict[str, Any] | None:
    if isinstance(file, bytes):
        found: dict[str, Any] = json.loads(file)
        return found
    if file is None or not file.is_file():
        return None
    return read_json(FileSource(file, f"{file.parent.name}/{file.name}"))


def _configured(config: dict[str, Any], equipment: Equipment, folders: Folders) -> dict[str, Any]:
    recipe = equipment.recipe
    changed = config
    if recipe.slices:
        count = configured_count(config)
        if count is not None:
            changed = stacked_config(
                config, count, recipe, lambda ref: config_of(folders.path(ref))
            )
    if recipe.out_dtype is not None:
        keys = [key for key in ("dtype", "torch_dtype") if isinstance(changed.get(key), str)]
        changed = {**changed, **dict.fromkeys(keys, NAMES[recipe.out_dtype])}
    return changed


def _put_tokenizer(
    files: dict[str, bytes | Path],
    document: Document,
    equipment: Equipment,
    folders: Folders,
    source: Path,
) -> None:
    wanted = document.files.tokenizer_source
    if wanted is None:
        return
    if wanted == "union":
        _check_union(document, folders)
        return
    if wanted == "base":
        wanted = document.foundation
    names = _models(document)
    if wanted not in names:
        raise RecipeError(
            _("`tokenizer_source: %(name)s` is no model of the recipe. %(supported)s"),
            name=wanted[:200],
            supported=_SUPPORTED,
        )
    giver = folders.find(wanted)
    if giver == source:
        return
    theirs = {path: file for path, file in configuration_files(giver).items() if _is_token(path)}
    ours = [path for path in files if _is_token(path)]
    if not theirs and not ours:
        return
    _check_same(folders, wanted, folders.ref(document.target, FULL), "tokenizer_source")
    for path in ours:
        del files[path]
    files.update(theirs)


def _is_token(path: str) -> bool:
    return path in _TOKENIZER or path.startswith("additional_chat_templates/")


def _models(document: Document) -> list[str]:
    entries = [entry for part in document.slices for entry in (part.foundation, *part.entries)]
    entries += document.entries
    named = [document.target, document.foundation, *(entry.model for entry in entries)]
    return list(dict.fromkeys(named))


def _check_union(document: Document, folders: Folders) -> None:
    names = [
        name
        for name in _models(document)
        if any(_is_token(path) for path in configuration_files(folders.find(name)))
    ]
    for name in names[1:]:
        _check_same(folders, name, names[0], "tokenizer_source: union")


def _check_same(folders: Folders, name: str, other: str, key: str) -> None:
    refs = [folders.ref(each, folders.form(each)) for each in (name, other)]
    mine, yours = (dict(folders.tokens(ref)().ids) for ref in refs)
    if mine != yours:
        different = sorted(set(mine.items()) ^ set(yours.items()), key=lambda pair: pair[1])
        raise RecipeError(
            _(
                "`%(key)s`: the vocabularies of %(name)s and %(other)s differ (such as token "
                "`%(token)s`). %(supported)s"
            ),
            key=key,
            name=name,
            other=other,
            token=different[0][0],
            supported=_SUPPORTED,
        )


def _check_padding(multiple: int | None, equipment: Equipment) -> None:
    if multiple is None:
        return
    for tensor in equipment.plan:
        if len(tensor.shape) == 2 and VOCABULARY.search(tensor.name):
            rows: Sequence[int] = tensor.shape[:1]
            if rows[0] % multiple:
                raise MergeError(
                    _(
                        "`tokenizer.pad_to_multiple_of: %(multiple)d`: `%(tensor)s` has %(rows)d "
                        "rows. Rows are not added here: leave the key out, or use a target whose "
                        "vocabulary is padded."
                    ),
                    multiple=multiple,
                    tensor=tensor.name,
                    rows=rows[0],
                )


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
