"""The Content-Disposition of a download."""

from __future__ import annotations

import re
from urllib.parse import quote


def disposition(file_name: str, *, inline: bool = False) -> str:
    """Save as ``file_name``, in any script (RFC 6266 and 5987); folders are left out."""
    kind = "inline" if inline else "attachment"
    name = re.sub(r"[\x00-\x1f\x7f]", "", file_name.rpartition("/")[2]) or "download"
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)  # ASCII without quote and backslash
    if plain == name:
        return f'{kind}; filename="{name}"'
    return (
        f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    )
