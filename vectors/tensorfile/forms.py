"""Which form a set of uploaded files has, and which files may be there at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from .errors import TensorFileError, _

FULL, DELTA, LORA = "full", "delta", "lora"
STEMS = {FULL: "model", DELTA: "delta", LORA: "adapter_model"}

_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|joblib|npz|msgpack|h5|onnx|gguf)", re.I)
# What training leaves beside a model: never part of a vector, and no reason to refuse one.
_LEFT_OUT = re.compile(
    r"(optimizer.*|scheduler|rng_state.*|scaler|training_args)\.(pt|pth|bin)"
    r"|events\.out\.tfevents\..*|.*\.(py|pyc|ipynb)",
    re.I,
)
_NOT_HIDDEN = {".eval_results", ".", ".."}  # results as model hubs have them; paths that are wrong
_PATH = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff\\:*?\"<>|]{1,400}")
_MAX_DEPTH = 6


def check_path(path: str) -> str:
    """Return ``path`` as a clean repository path, or raise TensorFileError."""
    pure = PurePosixPath(path)
    parts = pure.parts
    if (
        not _PATH.fullmatch(path)
        or pure.is_absolute()
        or not parts
        or len(parts) > _MAX_DEPTH
        or any(
            part in (".", "..") or (part.startswith(".git") and part != ".gitattributes")
            for part in parts
        )
        or str(pure) != path
    ):
        raise TensorFileError(
            _("`%(path)s` is not a usable file name."), path=repr(path[:120])[1:-1]
        )
    return path


def is_path(path: str) -> bool:
    """Whether ``path`` is a clean repository path."""
    try:
        check_path(path)
    except TensorFileError:
        return False
    return True


def check_kind(path: str) -> None:
    """Refuse weight files that are not safetensors, by name."""
    if _PICKLES.fullmatch(path):
        raise TensorFileError(
            _(
                "%(file)s is not accepted: weights come as safetensors only, because other formats "
                "can run code or cannot be checked. Save it with save_pretrained(..., "
                "safe_serialization=True)."
            ),
            file=path,
        )


def is_left_out(path: str) -> bool:
    """Whether a file is not kept although a client may well send it: what only training needs,
    scripts (no file decides what code runs), hidden files."""
    *_folders, name = parts = path.split("/")
    hidden = any(part.startswith(".") and part not in _NOT_HIDDEN for part in parts)
    return hidden or "__pycache__" in parts or bool(_LEFT_OUT.fullmatch(name))


def detect_form(paths: Iterable[str]) -> str:
    """The form of the files at ``paths``: ``lora``, ``delta`` or ``full``."""
    names = set(paths)
    for path in sorted(names):
        check_kind(path)
    if "adapter_config.json" in names:
        return LORA
    if any(re.fullmatch(r"adapter_model(-.*)?\.safetensors", name) for name in names):
        raise TensorFileError(
            _("adapter_config.json is missing: without it the scale of the LoRA is unknown.")
        )
    if any(re.fullmatch(r"delta(-.*)?\.safetensors(\.index\.json)?", name) for name in names):
        return DELTA
    if any(name.endswith(".safetensors") for name in names):
        return FULL
    raise TensorFileError(
        _(
            "There are no weights among the files: add model.safetensors (a fine-tuned "
            "checkpoint), delta.safetensors, or adapter_model.safetensors with adapter_config.json."
        )
    )
