"""A model folder, loaded by transformers under the rules of the house.

safetensors only, local files only, no code from the folder; attention is computed by the library's
own plain loops, whatever a configuration asks for. One model is held at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from vectors.tensorfile.errors import Problem, _

AS_STORED_FROM = 4 * 10**9  # bytes of weights; smaller models are run in float32
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
LONGEST = 512  # tokens, where a model names no limit


class RunError(Problem):
    """A probe that this model cannot be asked; the sentence says why."""


class Loader:
    """The model of the folder asked for last, as the class asked for last."""

    def __init__(self) -> None:
        self._key: tuple[Path, str] | None = None
        self._model: Any = None

    def model(self, folder: Path, name: str, *, needs_head: bool = True) -> Any:
        """``folder`` as ``transformers.<name>``, ready to be asked.

        Raises RunError where the checkpoint lacks tensors of that class: random ones measure
        nothing.
        """
        if self._key == (folder, name):
            return self._model
        self._key = self._model = None  # the one before makes room first
        with _explained(folder):
            model, report = getattr(transformers, name).from_pretrained(
                folder,
                use_safetensors=True,
                dtype=torch.float32 if _bytes(folder) <= AS_STORED_FROM else "auto",
                attn_implementation="eager",
                output_loading_info=True,
                **LOCAL,
            )
        missing = sorted(report["missing_keys"])
        if missing and needs_head:
            raise RunError(
                _(
                    "The model has no `%(tensor)s`, so it has no head for this kind of probe "
                    "(%(count)d tensors are missing)."
                ),
                tensor=missing[0],
                count=len(missing),
            )
        self._key, self._model = (folder, name), model.eval()
        return self._model


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in ``folder``."""
    with _explained(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)


def processor_of(folder: Path, name: str) -> Any:
    """The image, feature or joint processor in ``folder``."""
    with _explained(folder):
        return getattr(transformers, name).from_pretrained(folder, **LOCAL)


def configuration_of(folder: Path) -> dict[str, Any]:
    """The folder's config.json as data."""
    return read_settings(folder / "config.json")


def read_settings(path: Path) -> dict[str, Any]:
    """A small JSON file of the folder; empty where it is missing. Raises RunError."""
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RunError(_("%(file)s of the model is not a JSON object."), file=path.name)
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn whatever the library raises into one sentence."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:
        raise cannot_run(error, folder) from error


def cannot_run(error: Exception, folder: Path) -> RunError:
    """The sentence about an error of the library, without the folder's path."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, MemoryError) or "can't allocate memory" in lines[0]:
        return RunError(_("The model needs more memory than a check may take."))
    reason = lines[0].replace(str(folder), "the model")[:300]
    return RunError(_("The model cannot be run: %(reason)s"), reason=reason)
