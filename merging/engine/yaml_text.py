"""YAML text as plain data, read strictly: no repeated keys, no code, one sentence for an error."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

from .errors import RecipeError, _

# What PyYAML's constructors let through on values such as 2001-99-99 or ``!!int x``.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: the last one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _value in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise RecipeError(_("The key `%(key)s` appears twice."), key=twice[:80])
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-5 (no point) for text; people mean the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def load_mapping(text: str) -> dict[Any, Any]:
    """The mapping that ``text`` spells. Raises RecipeError."""
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except RecipeError:
        raise
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            _("This is not YAML (line %(line)d)."), line=mark.line + 1 if mark else 1
        ) from None
    if not isinstance(data, dict):
        raise RecipeError(_("A recipe is a mapping of keys, such as merge_method and models."))
    return data
