"""Repositories brought from another hub: chosen files, whole and checked, in a staging folder.

What is broken off goes on where it was: the folder belongs to one commit of one repository, and a
file that is complete is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from vectors.cards import read_card
from vectors.detect import named_bases
from vectors.errors import Refusal, _
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.forms import (
    DELTA,
    FULL,
    LORA,
    STEMS,
    check_kind,
    check_path,
    is_left_out,
)

READ_BYTES = 4 * 2**20
CARD, ADAPTER = "README.md", "adapter_config.json"
# Text, and tokenizers that are none; not the indexes of weights in other formats.
_TEXT = re.compile(
    r".+(?<!\.index)\.json|.+\.(jsonl|txt|md|ya?ml|jinja|model|tiktoken)|(.+/)?LICENSE", re.I
)
_WEIGHTS = re.compile(r"(.+?)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


@dataclass(frozen=True)
class Source:
    """A repository somewhere else. Without a token nobody is signed in there."""

    endpoint: str
    repo_id: str
    revision: str = "main"
    token: str = ""

    @property
    def known(self) -> str | bool:
        """For the client, which would send a token it has kept for another place."""
        return self.token or False


@dataclass(frozen=True)
class Fetched:
    """A repository on this machine: its files, its form, and the bases it says it has."""

    folder: Path
    commit: str
    form: str
    bases: list[str]


def fetch(source: Source) -> Fetched:
    """Bring the newest commit of ``source``. Raises Refusal, in a sentence, whatever goes wrong."""
    info = _asked(source)
    siblings = {each.rfilename: each for each in info.siblings or []}
    form, paths = choose(siblings, source.repo_id)
    folder = _folder(source, info.sha or "")
    missing = sum(siblings[path].size or 0 for path in paths if not (folder / path).is_file())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise Refusal(
            _("%(id)s needs %(needed).1f GB here, and %(free).1f GB are free."),
            id=source.repo_id,
            needed=missing / 1e9,
            free=free / 1e9,
        )
    try:
        snapshot_download(
            source.repo_id,
            revision=info.sha,
            endpoint=source.endpoint,
            token=source.known,
            local_dir=folder,
            allow_patterns=[_literally(path) for path in paths],
        )
    except (HTTPError, OSError) as error:
        raise _refusal(source, error) from error
    for path in paths:
        _check(folder, siblings[path])
    config = _json(folder / ADAPTER) if form == LORA else {}
    card = folder / CARD
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    bases = named_bases(read_card(text).data, config)
    bases = [base for base in bases if base != source.repo_id]  # nothing is its own base
    return Fetched(folder, info.sha or "", form, bases)


def forget(fetched: Fetched) -> None:
    """Remove what was staged, once it is stored."""
    shutil.rmtree(fetched.folder, ignore_errors=True)


def choose(paths: Iterable[str], repo_id: str) -> tuple[str, list[str]]:
    """Form of a repository and the files worth having: its weights in safetensors (once, where it
    has them in several ways) and its texts."""
    safe = [path for path in paths if not is_left_out(path) and _is_safe(path)]
    stems = {found[1] for path in safe if (found := _WEIGHTS.fullmatch(path))}
    if ADAPTER in safe:
        form = LORA
    else:
        form = next((form for form in (FULL, DELTA) if STEMS[form] in stems), "")
    if not form or STEMS[form] not in stems:
        raise Refusal(
            _(
                "%(id)s has no weights that are taken here: model.safetensors, delta.safetensors, "
                "or adapter_model.safetensors with adapter_config.json. Other formats can run code."
            ),
            id=repo_id,
        )
    chosen = []
    for path in safe:
        weights = _WEIGHTS.fullmatch(path.rsplit("/", 1)[-1])
        if weights[1] == STEMS[form] if weights else _TEXT.fullmatch(path):
            chosen.append(path)
    return form, sorted(chosen)


def _is_safe(path: str) -> bool:
    try:
        check_kind(check_path(path))
    except Problem:
        return False
    return True


def _asked(source: Source) -> ModelInfo:
    api = HfApi(endpoint=source.endpoint, token=source.known)
    try:
        return api.model_info(source.repo_id, revision=source.revision, files_metadata=True)
    except HFValidationError as error:
        raise Refusal(_("`%(id)s` is no repository id."), id=source.repo_id[:120]) from error
    except (HTTPError, OSError) as error:
        raise _refusal(source, error) from error


def _refusal(source: Source, error: Exception) -> Refusal:
    """What the other side said, or that it says nothing, in a sentence."""
    where: dict[str, Any] = {"id": source.repo_id, "endpoint": source.endpoint}
    said = " ".join((getattr(error, "server_message", None) or str(error)).split())[:400]
    if isinstance(error, GatedRepoError):
        return Refusal(
            _("%(endpoint)s does not hand out %(id)s to this token: %(said)s"), said=said, **where
        )
    if isinstance(error, RepositoryNotFoundError):
        return Refusal(
            _("%(endpoint)s has no %(id)s, or it is private: then give a --token."), **where
        )
    if isinstance(error, RevisionNotFoundError):
        return Refusal(_("%(id)s has no revision %(revision)s."), revision=source.revision, **where)
    if isinstance(error, HfHubHTTPError):
        return Refusal(_("%(endpoint)s refuses %(id)s: %(said)s"), said=said, **where)
    return Refusal(
        _("%(id)s could not be brought from %(endpoint)s (%(said)s). Run it again: it goes on."),
        said=said,
        **where,
    )


def _folder(source: Source, commit: str) -> Path:
    """The staging folder of one commit; those of others of the repository are out of date."""
    place = urlsplit(source.endpoint).netloc or source.endpoint
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{place} {source.repo_id}")
    staging = Path(settings.ARMORY_DATA) / "imports" / stem
    for other in staging.glob("*"):
        if other.name != commit:
            shutil.rmtree(other, ignore_errors=True)
    folder = staging / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check(folder: Path, sibling: RepoSibling) -> None:
    """Refuse a file that is not what its repository says; the next run fetches it again."""
    path = folder / sibling.rfilename
    size = path.stat().st_size if path.is_file() else None
    whole = size is not None and sibling.size in (None, size)
    if whole and sibling.lfs is not None:
        whole = _digest(path, hashlib.sha256()) == sibling.lfs.sha256
    elif whole and sibling.blob_id and not _WEIGHTS.fullmatch(path.name):
        # As git names content. Weights that nobody has hashed yet are known by their size alone.
        head = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        whole = _digest(path, head) == sibling.blob_id
    if not whole:
        path.unlink(missing_ok=True)
        raise Refusal(
            _("%(file)s did not arrive as it was sent. Run it again: it is fetched anew."),
            file=sibling.rfilename,
        )


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as handle:
        while piece := handle.read(READ_BYTES):
            digest.update(piece)
    return str(digest.hexdigest())


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _literally(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)
