"""`manage.py make_sketches`: makes the sketches that versions published before them lack."""

from typing import Any

from django.core.management import BaseCommand, CommandError

from vectors.errors import explain
from vectors.sketches import make_sketch, unsketched
from vectors.tensorfile.errors import Problem


class Command(BaseCommand):
    help = "Makes missing sketches, and those of an older format anew. Reads each version once."

    def handle(self, *, verbosity: int, **_: Any) -> None:
        failed = 0
        for version in list(unsketched().select_related("vector", "foundation")):
            try:
                make_sketch(version)
            except Problem as problem:
                failed += 1
                self.stderr.write(f"{version}: {explain(problem)}")
            else:
                if verbosity > 0:
                    self.stdout.write(str(version))
        if failed:
            raise CommandError(f"{failed} versions have no sketch; see above.")
