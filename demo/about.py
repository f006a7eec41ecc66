"""What the model cards say of each vector, read from `about.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class About:
    """The written part of a card; numbers are added by `demo.cards`."""

    title: str
    summary: str  # at most 140 characters
    learned: str
    data: str
    limits: str
    license: str
    datasets: list[str]
    language: list[str]
    tags: list[str] = field(default_factory=list)
    show: list[str] = field(default_factory=list)  # beginnings of the held-out texts to show


def _read() -> dict[str, About]:
    texts = yaml.safe_load((Path(__file__).parent / "about.yaml").read_text("utf-8"))
    stripped = {
        name: {
            key: value.strip() if isinstance(value, str) else value for key, value in row.items()
        }
        for name, row in texts.items()
    }
    return {name: About(**row) for name, row in stripped.items()}


ABOUT = _read()
