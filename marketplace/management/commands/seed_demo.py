"""`manage.py seed_demo`: fills an empty shop with the foundations and vectors of `demo/`.

`demo/catalogue.json` names them; every path in it is relative to `demo/`:

    {"foundations": [{"id": "armory/tiny", "path": "foundations/tiny", "card": "cards/tiny.md",
                      "controls": "controls/tiny.jsonl"},
                     {"id": "…", "package": "an_installed_package", "subdir": "model"}],
     "vectors": [{"id": "ann/spam-filter", "foundation": "armory/tiny",
                  "path": "vectors/ann/spam-filter"}]}
"""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError

from marketplace.accounts.names import check_username_form

DEMO = settings.BASE_DIR / "demo"


def read_catalogue() -> dict[str, list[dict[str, str]]]:
    """The catalogue. Raises CommandError when it is missing or not of the form above."""
    path = DEMO / "catalogue.json"
    try:
        catalogue = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CommandError("demo/catalogue.json is missing: make it with `make demo`.") from error
    except ValueError as error:
        raise CommandError(f"demo/catalogue.json is not JSON: {error}") from error
    known = {entry["id"] for entry in catalogue["foundations"]}
    for entry in catalogue["vectors"]:
        if entry["foundation"] not in known:
            raise CommandError(
                f"demo/catalogue.json puts {entry['id']} on {entry['foundation']}, "
                "which is not among its foundations."
            )
    return catalogue


def folder_of(entry: dict[str, str]) -> Path:
    """The folder of an entry: under demo/, or inside an installed package."""
    if "package" in entry:
        spec = find_spec(entry["package"])
        if spec is None or not spec.submodule_search_locations:
            raise CommandError(
                f"{entry['id']} needs the package {entry['package']}, "
                "which is not installed: run `make install`."
            )
        root = Path(next(iter(spec.submodule_search_locations)))
    else:
        root = DEMO / entry["path"]
    folder = root / entry.get("subdir", "")
    if not folder.is_dir():
        raise CommandError(f"{entry['id']}: the folder {folder} is missing.")
    return folder


def card_of(entry: dict[str, str]) -> str | None:
    return (DEMO / entry["card"]).read_text(encoding="utf-8") if "card" in entry else None


def catalogue_mark(catalogue: dict[str, list[dict[str, str]]]) -> str:
    """A hash over the catalogue and the name, size and time of each of its files: equal marks
    mean that nothing in demo/ has changed since."""
    digest = hashlib.sha256(json.dumps(catalogue, sort_keys=True).encode())
    for entry in [*catalogue["foundations"], *catalogue["vectors"]]:
        folder = folder_of(entry)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        paths += [DEMO / entry[key] for key in ("card", "controls") if key in entry]
        for path in paths:
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def owner_named(name: str) -> AbstractUser:
    """The user, made without a usable password when new."""
    try:
        check_username_form(name)
    except ValidationError as error:
        raise CommandError(f"demo/catalogue.json: {name}: {' '.join(error.messages)}") from error
    users = get_user_model().objects
    user = users.filter(username=name).first()
    if user is None:
        user = users.create_user(name)  # no password: it cannot sign in
    return user


class Command(BaseCommand):
    help = "Adds the demo catalogue. Does nothing when it is there already."

    def handle(self, *, verbosity: int, **_: Any) -> None:
        from merging.checks.services import set_controls
        from vectors import importing
        from vectors.errors import explain
        from vectors.models import Vector
        from vectors.tensorfile.errors import Problem

        catalogue = read_catalogue()
        mark = catalogue_mark(catalogue)
        ready: Path = settings.ARMORY_DEMO_READY
        # The mark is trusted only together with the database: a new database has no vectors. A
        # demo vector somebody has withdrawn since does not come back at the next start.
        if ready.exists() and ready.read_text() == mark and Vector.objects.published().exists():
            return
        ready.unlink(missing_ok=True)

        foundations = {}
        try:
            for entry in catalogue["foundations"]:
                name = entry["id"]
                foundations[name] = importing.add_foundation(
                    folder_of(entry), repo_id=name, card=card_of(entry)
                )
                if "controls" in entry:
                    set_controls(foundations[name], (DEMO / entry["controls"]).read_bytes())
            # The shelves show the newest first, and the catalogue is in showing order.
            for entry in reversed(catalogue["vectors"]):
                name = entry["id"]
                importing.add_vector(
                    folder_of(entry),
                    repo_id=name,
                    foundation=foundations[entry["foundation"]],
                    owner=owner_named(name.partition("/")[0]),
                )
                if verbosity > 1:
                    self.stdout.write(name)
        except Problem as problem:
            raise CommandError(f"{name} was refused: {explain(problem)}") from problem

        draft = ready.with_suffix(".draft")
        draft.write_text(mark)
        draft.replace(ready)
