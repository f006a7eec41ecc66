"""The Content-Disposition of a download."""

from __future__ import annotations

import re
from urllib.parse import quote


def attachment(file_name: str) -> str:
    """Save as ``file_name``, in any script (RFC 6266 and 5987); folders are left out."""
    name = re.sub(r"[\x00-\x1f\x7f]", "", file_name.rpartition("/")[2]) or "download"
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)  # ASCII without quote and backslash
    if plain == name:
        return f'attachment; filename="{name}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
