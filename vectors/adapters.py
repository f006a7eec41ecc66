"""adapter_config.json as it is handed out: its base model is the foundation, by its id here.

Clients that load an adapter fetch the base model it names from the same place. Training leaves a
local path there, or the name another hub has for it. The stored file stays as it came: what is
handed out depends on it and on the version's foundation alone, so a commit has the same bytes for
ever, and their true hash.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from vectors.files import MAX_TEXT
from vectors.models import Foundation, RepositoryFile, Version
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

CONFIG = "adapter_config.json"
BASE, REVISION = "base_model_name_or_path", "revision"
_ANY = (None, "", "main")  # revisions that every repository has


def handed_out(owner: Foundation | Version, file: RepositoryFile) -> bytes | None:
    """The content of ``file`` where it is handed out otherwise than it is stored."""
    if file.path != CONFIG or not isinstance(owner, Version) or owner.foundation_id is None:
        return None
    if file.blob.size > MAX_TEXT:
        return None
    assert owner.foundation is not None
    return _with_base(file.blob_id, owner.foundation.repo_id)


@lru_cache(maxsize=1024)
def _with_base(sha256: str, base: str) -> bytes | None:
    source = storage().open(sha256)
    try:
        config = json.loads(read_bytes(source))
    except (ValueError, RecursionError):
        return None
    finally:
        source.close()
    if not isinstance(config, dict):
        return None
    changed: dict[str, Any] = {**config, BASE: base}
    if config.get(REVISION) not in _ANY:  # one of the place that the base came from
        changed[REVISION] = None
    return (
        None
        if changed == config
        else (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    )
