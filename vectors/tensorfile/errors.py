"""Errors that people read: one sentence, a template and its parameters.

The pure packages know no translation machinery, so an error carries its English template and the
values; the site translates the template and fills it again.
"""

from __future__ import annotations

from typing import Any


def _(template: str) -> str:
    """Mark ``template`` for translation (makemessages finds the name) and return it unchanged."""
    return template


class Problem(ValueError):
    """A refusal with one clear sentence.

    ``template`` uses %-style named parameters; ``str(problem)`` is the filled English sentence.
    """

    def __init__(self, template: str, **params: Any) -> None:
        self.template = template
        self.params = params
        super().__init__(template % params if params else template)


class TensorFileError(Problem):
    """A file is not a checkpoint we can read; the sentence names the file and the way out."""
