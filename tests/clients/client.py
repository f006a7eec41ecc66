"""A client of the hub protocol as a process: the command ``hf``, or a few lines of Python.

The newest one lives in the environment of the tests; older ones have their own, which
`make clients` installs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

NEWEST = "newest"
OLD = ("1.19.0", "0.36.2")
FOLDER = Path(settings.BASE_DIR) / ".cache" / "clients"
LIMIT = 300  # seconds for one command


@dataclass(frozen=True)
class Client:
    """One version of the client with a home of its own; ``token`` signs it in."""

    version: str
    endpoint: str
    home: Path
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    token: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    def signed_in(self, name: str, scope: str = "write") -> Client:
        """The same client with a token of ``name``."""
        return replace(self, token=self.tokens[f"{name} {scope}"])

    def at(self, endpoint: str, **variables: str) -> Client:
        """The same client, sent elsewhere, with environment variables of its own."""
        return replace(self, endpoint=endpoint, variables={**self.variables, **variables})

    def hf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``hf …`` (``huggingface-cli`` has been ``hf`` since 0.34)."""
        return self._run([str(self._bin / "hf"), *arguments])

    def python(self, code: str, *arguments: str) -> Any:
        """Run ``code``, which prints JSON as its last line; that value."""
        done = self.run(code, *arguments)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` whatever comes of it."""
        return self._run([str(self._bin / "python"), "-c", code, *arguments])

    @property
    def _bin(self) -> Path:
        if self.version == NEWEST:
            return Path(sys.executable).parent
        found = FOLDER / self.version / "bin"
        if not found.is_dir():
            pytest.fail(f"the client {self.version} is not installed: run `make clients`")
        return found

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        self.home.mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "ARMORY_"))}
        environment = {
            **inherited,
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_COLOR": "1",
            **({"HF_TOKEN": self.token} if self.token else {}),
            **self.variables,
        }
        return subprocess.run(
            command,
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
