"""Whether all files of a model are there yet: clients push large ones in several commits."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .checkpoint import MAX_INDEX_BYTES, read_json
from .errors import TensorFileError
from .forms import DELTA, FULL, LORA, STEMS, is_path
from .source import ByteSource


def missing_file(files: Mapping[str, ByteSource]) -> str:
    """The first file without which ``files`` hold no whole weights; empty when they do.

    What is there but wrong is not told here: that is found when the weights are opened.
    """
    weights = sorted(path for path in files if path.endswith(".safetensors"))
    if "adapter_config.json" in files:
        form = LORA
    elif any(path.startswith("adapter_model") for path in weights):
        return "adapter_config.json"
    elif any(re.fullmatch(r"delta(-.*)?\.safetensors(\.index\.json)?", path) for path in files):
        form = DELTA
    else:
        form = FULL
    single, index = f"{STEMS[form]}.safetensors", f"{STEMS[form]}.safetensors.index.json"
    if index in files:
        return next((path for path in named_by(files[index]) if path not in files), "")
    if single in files:
        return ""
    if any(path.startswith(f"{STEMS[form]}-") for path in weights):
        return index
    return "" if weights else single


def named_by(index: ByteSource) -> list[str]:
    """The shards that an index names, as far as they can be names; none when it cannot be read."""
    try:
        weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    except TensorFileError:
        return []
    named = weight_map.values() if isinstance(weight_map, dict) else ()
    return sorted({path for path in named if isinstance(path, str) and is_path(path)})
