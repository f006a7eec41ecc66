"""``manage.py add_foundation DIR --id org/name``"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vectors.importing import add_foundation
from vectors.tensorfile.errors import Problem


class Command(BaseCommand):
    help = "Add the checkpoint in a folder as a foundation model."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--id", required=True, help="repository id, org/name")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["folder"].is_dir():
            raise CommandError(f"There is no folder {options['folder']}.")
        try:
            foundation = add_foundation(options["folder"], repo_id=options["id"])
        except Problem as problem:
            raise CommandError(str(problem)) from None
        self.stdout.write(
            f"{foundation.repo_id}: {foundation.parameters:,} parameters, {foundation.dtype}, "
            f"fingerprint {foundation.fingerprint[:16]}"
        )
