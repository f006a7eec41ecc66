"""``manage.py add_vector DIR --id owner/name --foundation org/name --owner USER``"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from vectors.importing import add_vector
from vectors.models import Foundation
from vectors.tensorfile.errors import Problem


class Command(BaseCommand):
    help = "Add the vector in a folder: inspects it at once, prints the verdict, publishes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--id", required=True, help="repository id, owner/name")
        parser.add_argument("--foundation", required=True, help="repository id of its foundation")
        parser.add_argument("--owner", required=True, help="user name of its owner")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["folder"].is_dir():
            raise CommandError(f"There is no folder {options['folder']}.")
        foundation = Foundation.objects.by_repo_id(options["foundation"]).first()
        if foundation is None:
            raise CommandError(
                f"There is no foundation {options['foundation']}: add it with add_foundation."
            )
        owner = get_user_model().objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(f"There is no user {options['owner']}.")
        try:
            version = add_vector(
                options["folder"], repo_id=options["id"], foundation=foundation, owner=owner
            )
        except Problem as problem:
            raise CommandError(f"refused: {problem}") from None
        verdict = version.verdict
        self.stdout.write(
            f"{version}: {version.form}, {verdict['touched']} of {verdict['of']} tensors, "
            f"delta {verdict['ratio'] * 100:.2f}% of the weights' size; published"
        )
        for warning in verdict["warnings"]:
            self.stdout.write("warning: " + warning["template"] % warning["params"])
