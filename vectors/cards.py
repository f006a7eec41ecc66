"""Model cards: YAML front matter read carefully, Markdown rendered and sanitised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import nh3
import yaml
from markdown_it import MarkdownIt

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.S | re.M)
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
MAX_CARD = 500_000
# Counts up whenever ``render`` makes other HTML of the same card: what is kept is drawn anew then.
RENDERER = 1

_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(
    ["table", "strikethrough"]
)


@dataclass
class Card:
    """A card taken apart. ``problem`` is set when its front matter could not be read."""

    data: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    problem: str = ""


class _Loader(yaml.SafeLoader):
    """The safe loader; what escapes like ``"\\ud800"`` or ``"\\0"`` bring in is no text that a
    database keeps, and becomes a question mark."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        return _UNSTORABLE.sub("?", value) if isinstance(value, str) else value


def read_card(text: str) -> Card:
    """Split ``text`` into front matter and body. Never raises: a broken card is still a card."""
    text = text[:MAX_CARD]
    found = _FRONT.match(text)
    if not found:
        return Card(body=text)
    body = text[found.end() :]
    try:
        data = yaml.load(found[1], _Loader)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-45; [[[[[…
        mark = getattr(error, "problem_mark", None)
        return Card(body=body, problem=f"line {mark.line + 2}" if mark else "front matter")
    return Card(data if isinstance(data, dict) else {}, body)


def render(body: str) -> str:
    """Markdown as safe HTML: no scripts, no styles, links that vouch for nothing.

    Headings move down by one: the page has its own h1.
    """
    html = _markdown.render(re.sub(r"<!--.*?-->", "", body, flags=re.S))
    html = re.sub(r"<(/?)h([1-5])>", lambda m: f"<{m[1]}h{int(m[2]) + 1}>", html)
    safe = nh3.clean(
        html,
        tags=set(nh3.ALLOWED_TAGS) - {"img", "map", "area", "figure", "center"},
        link_rel="nofollow ugc noopener",
        url_schemes={"http", "https", "mailto"},
    )
    # Code scrolls sideways, by keyboard too.
    return safe.replace("<pre>", '<pre tabindex="0">')


def text_of(value: Any, limit: int = 200) -> str:
    """A scalar of the front matter as short text; anything else is empty."""
    return str(value).strip()[:limit] if isinstance(value, str | int | float) else ""


def list_of(value: Any, limit: int = 20) -> list[str]:
    """A string or list of the front matter as a list of short texts."""
    items = value if isinstance(value, list) else [value]
    return [text_of(item, 60) for item in items if text_of(item, 60)][:limit]
