"""docs/recipes.md: every recipe on the page runs, and every name on it exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from merging.__main__ import _parser
from merging.engine.dtype_names import DTYPES
from merging.engine.expression import WORDS
from merging.engine.mergekit import _HOUSE, _TOP
from merging.engine.rules import ACTIONS
from tests.engine.folders import family, merged

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
LINES = [
    line for block in re.findall(r"```recipe\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    family(root, "a", "b", "c", "chat", "zh", "toxic")
    return root


@pytest.mark.parametrize("recipe", [*LINES, *FILES])
def test_a_recipe_on_the_page_runs(models: Path, recipe: str) -> None:
    assert merged(models, recipe)


def test_the_page_has_them_all() -> None:
    assert len(LINES) > 12
    assert len(FILES) >= 4
    for word in (*_TOP, *_HOUSE, *DTYPES, *WORDS, *ACTIONS):
        assert re.search(rf"`[^`]*\b{word}\b", PAGE), word
    for option in re.findall(r"--[\w-]+", _parser().format_usage()):
        if option != "--help":
            assert f"`{option}" in PAGE, option
