"""The rules of a .gitignore, which clients send along and leave to the site (gitignore(5))."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

MAX_TEXT = 64 << 10
MAX_RULES = 500
MAX_DEPTH = 12  # folders of a path that are looked at; a repository takes fewer


@dataclass(frozen=True)
class _Rule:
    """A pattern, one part a folder; ``keep`` takes back what an earlier rule ignores."""

    parts: tuple[str, ...]
    keep: bool
    folders_only: bool


def is_ignored(path: str, text: str) -> bool:
    """Whether the .gitignore ``text`` leaves out ``path``. From an ignored folder nothing comes
    back."""
    rules = _rules(text[:MAX_TEXT])
    parts = tuple(path.split("/", MAX_DEPTH))
    for depth in range(1, len(parts) + 1):
        ignored = False
        for rule in rules:
            if rule.folders_only and depth == len(parts):
                continue
            if _matches(parts[:depth], rule.parts):
                ignored = not rule.keep
        if ignored:
            return True
    return False


@lru_cache(maxsize=8)
def _rules(text: str) -> tuple[_Rule, ...]:
    rules = []
    for line in text.splitlines()[:MAX_RULES]:
        pattern = line.rstrip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!").removeprefix("\\")
        folders_only, pattern = pattern.endswith("/"), pattern.rstrip("/")
        if "/" not in pattern:  # at any depth
            pattern = f"**/{pattern}"
        rules.append(_Rule(tuple(pattern.lstrip("/").split("/")), keep, folders_only))
    return tuple(rules)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Part by part, from the left: ``ends`` are the places the pattern so far can lead to."""
    ends = {0}
    for each in pattern:
        if each == "**":
            ends = set(range(min(ends), len(parts) + 1)) if ends else ends
        else:
            ends = {at + 1 for at in ends if at < len(parts) and fnmatchcase(parts[at], each)}
    return len(parts) in ends
