"""``manage.py equip 'owner/a + 0.5*owner/b' --on org/name --out DIR``"""

from __future__ import annotations

from argparse import ArgumentParser
from contextlib import closing
from pathlib import Path
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from merging.engine.run import write_model
from merging.repository import Opened
from merging.services import equip_expression
from vectors.tensorfile.errors import Problem


class Command(BaseCommand):
    help = "Equip a model of the catalogue and write it to a folder."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("expression", help="such as 'owner/a + 0.5*owner/b'")
        parser.add_argument("--on", default="", help="foundation or full fine-tune, org/name")
        parser.add_argument("--out", type=Path, required=True, help="the folder to write")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            row = equip_expression(options["expression"], on=options["on"], user=AnonymousUser())
            with closing(Opened(row)) as opened:
                extra: dict[str, bytes | Path] = {
                    file.path: b"".join(file.read())
                    for file in opened.files.values()
                    if file.virtual is None and not file.path.endswith("index.json")
                }
                with tqdm(total=opened.equipment.model.size, unit="B", unit_scale=True) as bar:
                    write_model(opened.equipment, options["out"], extra, on_bytes=bar.update)
        except Problem as problem:
            raise CommandError(str(problem)) from None
        self.stdout.write(f"{row.repo_id} is in {options['out']}")
