"""Model cards: YAML front matter read carefully, Markdown rendered and sanitised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import nh3
import yaml
from markdown_it import MarkdownIt

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.S | re.M)
MAX_CARD = 500_000
# Counts up whenever ``render`` makes other HTML of the same card: what is kept is drawn anew then.
RENDERER = 1

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # YAML can spell it, databases do not take it
_LARGEST = 2**63

_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(
    ["table", "strikethrough"]
)


@dataclass
class Card:
    """A card taken apart. ``problem`` is set when its front matter could not be read."""

    data: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    problem: str = ""


class _FrontMatter(yaml.SafeLoader):
    """YAML as far as it is data of a card: texts are texts, whole numbers fit a database, and
    nothing grows beyond what was written."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A merge key copies what it names: ten lines of copies of copies fill any memory.
        for key, _value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a merge key", key.start_mark)

    def text(self, node: yaml.ScalarNode) -> str:
        return storable(str(self.construct_scalar(node)))

    def whole_number(self, node: yaml.ScalarNode) -> int | str:
        number = self.construct_yaml_int(node)
        return number if -_LARGEST <= number < _LARGEST else str(node.value)


_FrontMatter.add_constructor("tag:yaml.org,2002:str", _FrontMatter.text)
_FrontMatter.add_constructor("tag:yaml.org,2002:int", _FrontMatter.whole_number)


def read_card(text: str) -> Card:
    """Split ``text`` into front matter and body. Never raises: a broken card is still a card."""
    text = text[:MAX_CARD]
    found = _FRONT.match(text)
    if not found:
        return Card(body=text)
    body = text[found.end() :]
    try:
        data = yaml.load(found[1], _FrontMatter)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-45; [[[[[…
        mark = getattr(error, "problem_mark", None)
        return Card(body=body, problem=f"line {mark.line + 2}" if mark else "front matter")
    return Card(data if isinstance(data, dict) else {}, body)


def render(body: str) -> str:
    """Markdown as safe HTML: no scripts, no styles, links that vouch for nothing.

    Headings move down by one: the page has its own h1.
    """
    html = _markdown.render(_without_comments(body))
    html = re.sub(r"<(/?)h([1-5])>", lambda m: f"<{m[1]}h{int(m[2]) + 1}>", html)
    safe = nh3.clean(
        html,
        tags=set(nh3.ALLOWED_TAGS) - {"img", "map", "area", "figure", "center"},
        link_rel="nofollow ugc noopener",
        url_schemes={"http", "https", "mailto"},
    )
    # Code scrolls sideways, by keyboard too.
    return safe.replace("<pre>", '<pre tabindex="0">')


def _without_comments(text: str) -> str:
    # Not by a regular expression: it would look for the end of each of a thousand beginnings.
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return "".join(kept) + text[at:]


def text_of(value: Any, limit: int = 200) -> str:
    """A scalar of the front matter as short text; anything else is empty."""
    return str(value).strip()[:limit] if isinstance(value, str | int | float) else ""


def storable(text: str) -> str:
    """``text`` with a question mark for what databases do not take."""
    return _NOT_TEXT.sub("?", text)


def list_of(value: Any, limit: int = 20) -> list[str]:
    """A string or list of the front matter as a list of short texts."""
    items = value if isinstance(value, list) else [value]
    return [text_of(item, 60) for item in items if text_of(item, 60)][:limit]
