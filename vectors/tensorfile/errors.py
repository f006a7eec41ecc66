"""Errors that people read: one sentence, a template and its parameters.

The pure packages know no translation machinery, so an error carries its English template and the
values; the site translates the template and fills it again.
"""

from __future__ import annotations

from typing import Any


class Marked(str):
    """A text that was marked for translation. Where it fills a place of another, such as "the
    target", the site knows it by its type from a name that happens to read the same."""

    __slots__ = ()


def _(template: str) -> str:
    """Mark ``template`` for translation (makemessages finds the name)."""
    return Marked(template)


class Problem(ValueError):
    """A refusal with one clear sentence.

    ``template`` uses %-style named parameters; ``str(problem)`` is the filled English sentence.
    Of several sentences each has a line of its own and is translated by itself.
    """

    def __init__(self, template: str, **params: Any) -> None:
        self.template = template
        self.params = params
        said = template.replace("\n", " ")
        super().__init__(said % params if params else said)


class TensorFileError(Problem):
    """A file is not a checkpoint we can read; the sentence names the file and the way out."""
