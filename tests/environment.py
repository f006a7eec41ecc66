"""The environment of a command that a test starts as its own process."""

import os
from pathlib import Path

_OURS = ("ARMORY_", "DJANGO_", "PYTEST_")


def clean_environment(data: Path, **variables: str) -> dict[str, str]:
    """This process's environment without Armory's and pytest's variables, then those given;
    `data` becomes the data folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name != "PORT"
    }
    return kept | {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "ARMORY_DATA": str(data),
        **variables,
    }
