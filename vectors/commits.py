"""Commits: the immutable states of a repository, named as model hubs name them, by 40 digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

from vectors.models import Foundation, Version

FOUNDATION_SALT = "foundation"


def commit_id(files: Mapping[str, str], *, parent: str = "", salt: str = "") -> str:
    """The commit of a tree of ``files`` (path → SHA-256).

    ``parent`` is the commit before it and ``salt`` whatever else makes it this one: the same tree
    twice in a history is two commits, as in git.
    """
    content = json.dumps([sorted(files.items()), parent, salt], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:40]


def tree_of(owner: Foundation | Version) -> dict[str, str]:
    """Paths and hashes of the stored files of ``owner``."""
    return dict(owner.files.values_list("path", "blob_id"))


def commit_of(owner: Foundation | Version) -> str:
    """The commit of ``owner``; a draft of the upload form has none yet and gets the one its files
    would have."""
    return owner.commit or commit_id(tree_of(owner), salt=salt_of(owner))


def salt_of(owner: Foundation | Version) -> str:
    """What tells apart the commits of two repositories that hold the same files."""
    if isinstance(owner, Foundation):
        return f"{FOUNDATION_SALT} {owner.fingerprint}"
    return f"version {owner.pk}"


def pushed_salt(repo_id: str, message: str, moment: datetime) -> str:
    """The salt of a commit that a client pushes: the same push again is another commit."""
    return f"{repo_id}\n{message}\n{moment.isoformat()}"
