"""The chat template and the end mark of a vector, put into the configuration of a target.

A chat vector brings the habit of answering turn by turn; its turns are written by a template and
end with a token, and both belong to the fine-tune's files, not to its weights (Chat Vector,
2310.04799: tokenizer of the target, template and EOS of the vector). transformers looks for a
template in ``chat_template.jinja`` and ``additional_chat_templates/NAME.jinja`` first, then in
``tokenizer_config.json``; processors of older versions in ``chat_template.json``. Generation ends
at ``eos_token_id`` of ``generation_config.json``, else of ``config.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vectors.tensorfile.checkpoint import read_json
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.source import ByteSource, read_bytes

from .errors import MergeError, _
from .tokens import Vocabulary, content, read_tokens

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 4 * 2**20

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}"  # becomes part of a path
_NAMED = re.compile(rf"additional_chat_templates/({_NAME})\.jinja")
_FIELDS = {
    "tokenizer_config.json": ("chat_template", "eos_token"),
    "chat_template.json": ("chat_template",),
    "special_tokens_map.json": ("eos_token",),
    "generation_config.json": ("eos_token_id",),
    "config.json": ("eos_token_id",),
}


def template_files(files: Mapping[str, ByteSource]) -> dict[str, tuple[str, ...]]:
    """Which of a model's ``files`` carry its chat template and end mark: path → fields.

    A file that is itself a template has no fields. Raises TensorFileError for broken JSON.
    """
    found: dict[str, tuple[str, ...]] = {
        path: () for path in sorted(files) if path == TEMPLATE_FILE or _NAMED.fullmatch(path)
    }
    for path, fields in _FIELDS.items():
        document = read_json(files[path]) if path in files else {}
        present = tuple(field for field in fields if document.get(field) not in (None, "", []))
        if present:
            found[path] = present
    return found


def chat_templates(files: Mapping[str, ByteSource]) -> dict[str, str]:
    """Chat templates by name (the usual one is ``default``), as transformers would find them."""
    found = {}
    for path in files:
        named = _NAMED.fullmatch(path)
        if named or path == TEMPLATE_FILE:
            found[named[1] if named else "default"] = _text(files[path])
    if found:
        return found
    for path in ("tokenizer_config.json", "chat_template.json"):
        field = read_json(files[path]).get("chat_template") if path in files else None
        if not field:
            continue
        if isinstance(field, str):
            return {"default": field}
        if isinstance(field, list) and all(map(_is_named_template, field)):
            return {item["name"]: item["template"] for item in field}
        raise TensorFileError(
            _("The chat_template of %(file)s is neither text nor a list of named texts."),
            file=files[path].name,
        )
    return {}


def _is_named_template(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    name, template = item.get("name"), item.get("template")
    return isinstance(template, str) and isinstance(name, str) and bool(re.fullmatch(_NAME, name))


def carry_template(
    target_files: Mapping[str, ByteSource],
    vector_files: Mapping[str, ByteSource],
    *,
    label: str = "the vector",
) -> dict[str, bytes]:
    """The target's configuration with the chat template and end mark of the vector ``label``.

    Returns only the files that change or are new, by path; JSON keeps its other fields, their
    order and its indentation. The template is written wherever the target or the vector keeps one,
    so no reader finds a stale copy. The numbers of end tokens are translated through their strings
    into the target's numbers.

    Raises MergeError when the vector has no template, or an end token that the target lacks;
    TensorFileError when a file cannot be read.
    """
    templates = chat_templates(vector_files)
    if "default" not in templates:
        raise MergeError(
            _("There is no chat template in %(label)s. Keep the target's."),
            label=label,
        )
    originals = {path: read_json(target_files[path]) for path in _FIELDS if path in target_files}
    documents = {path: dict(document) for path, document in originals.items()}
    changed = _put_templates(documents, templates, target_files, vector_files)
    _put_end(documents, target_files, vector_files, label)
    for path, document in documents.items():
        if document != originals[path]:
            changed[path] = _written(document, target_files[path])
    return changed


def _put_templates(
    documents: dict[str, dict[str, Any]],
    templates: Mapping[str, str],
    target_files: Mapping[str, ByteSource],
    vector_files: Mapping[str, ByteSource],
) -> dict[str, bytes]:
    """Set the template fields of ``documents``; return the template files."""
    default = templates["default"]
    old = {found[1] for path in target_files if (found := _NAMED.fullmatch(path))}
    config = documents.get("tokenizer_config.json")
    as_files = config is None or bool(
        old or TEMPLATE_FILE in target_files or TEMPLATE_FILE in vector_files
    )
    written = {}
    if as_files:
        written[TEMPLATE_FILE] = default.encode()
        # A name that only the target knows falls back to the default, as it would in the vector.
        for name in sorted((old | set(templates)) - {"default"}):
            path = f"additional_chat_templates/{name}.jinja"
            written[path] = templates.get(name, default).encode()
    if config is not None and (not as_files or config.get("chat_template")):
        several = [{"name": name, "template": text} for name, text in templates.items()]
        config["chat_template"] = several if len(several) > 1 else default
    if "chat_template.json" in documents:
        documents["chat_template.json"]["chat_template"] = default
    return written


def _put_end(
    documents: dict[str, dict[str, Any]],
    target_files: Mapping[str, ByteSource],
    vector_files: Mapping[str, ByteSource],
    label: str,
) -> None:
    """Set the end mark wherever ``documents`` say one; nothing when the vector knows none."""
    vector = {path: read_json(vector_files[path]) for path in _FIELDS if path in vector_files}
    name = _end_token(vector)
    generation = _end_numbers(vector.get("generation_config.json", {}))
    general = _end_numbers(vector.get("config.json", {}))
    numbers = general if generation is None else generation
    if name is None and numbers is None:
        return
    target = read_tokens(target_files, label="the target")
    if name is not None:
        _row(name, target, label)
        for path in ("tokenizer_config.json", "special_tokens_map.json"):
            if path in documents:
                held = documents[path].get("eos_token")
                token = {**held, "content": name} if isinstance(held, dict) else name
                documents[path]["eos_token"] = token
    if numbers is None:
        ends: Any = _row(str(name), target, label)
        general_ends = ends
    else:
        source = read_tokens(vector_files, label=label)
        ends = _translated(numbers, source, target, label)
        general_ends = ends if general is None else _translated(general, source, target, label)
    if "generation_config.json" in documents:
        documents["generation_config.json"]["eos_token_id"] = ends
    config = documents.get("config.json")
    if config is None:
        return
    text = config.get("text_config")  # models that also see or hear
    if isinstance(text, dict) and "eos_token_id" in text:
        config["text_config"] = {**text, "eos_token_id": general_ends}
    if "eos_token_id" in config or "generation_config.json" not in documents:
        config["eos_token_id"] = general_ends if "generation_config.json" in documents else ends


def _end_numbers(document: Mapping[str, Any]) -> Any:
    numbers = document.get("eos_token_id")
    return None if numbers == [] else numbers


def _end_token(documents: Mapping[str, Mapping[str, Any]]) -> str | None:
    for path in ("tokenizer_config.json", "special_tokens_map.json"):
        name = content(documents.get(path, {}).get("eos_token"))
        if isinstance(name, str) and name:
            return name
    return None


def _translated(numbers: Any, source: Vocabulary, target: Vocabulary, label: str) -> Any:
    """``eos_token_id`` of the vector, one number or a list, in the target's numbers."""
    rows = []
    for number in numbers if isinstance(numbers, list) else [numbers]:
        token = source.tokens.get(number) if type(number) is int else None
        if token is None:
            raise MergeError(
                _("The end token %(number)s of %(label)s is none of its tokens."),
                number=str(number)[:40],
                label=label,
            )
        rows.append(_row(token, target, label))
    return rows if isinstance(numbers, list) else rows[0]


def _row(token: str, target: Vocabulary, label: str) -> int:
    if token not in target.ids:
        raise MergeError(
            _(
                "The turns of %(label)s end with `%(token)s`, which the target does not have. Add "
                "the token to the target's tokenizer, or keep the target's chat template."
            ),
            label=label,
            token=token,
        )
    return target.ids[token]


def _text(source: ByteSource) -> str:
    if source.size <= MAX_TEMPLATE_BYTES:
        try:
            return read_bytes(source).decode("utf-8")
        except UnicodeDecodeError:
            pass
    raise TensorFileError(_("%(file)s is not a chat template."), file=source.name)


def _written(document: Mapping[str, Any], original: ByteSource) -> bytes:
    """``document`` in the style of the file it was read from."""
    text = read_bytes(original).decode("utf-8")
    indent = re.match(r"\s*\{\s*?\n([ \t]+)", text)
    escaped = "\\u" in text and text.isascii()
    written = json.dumps(document, indent=indent[1] if indent else None, ensure_ascii=escaped)
    return (written + text[len(text.rstrip()) :]).encode()
