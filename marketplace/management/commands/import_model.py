"""``manage.py import_model org/name --endpoint URL``: a model or a vector from another hub."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from vectors.detect import by_name
from vectors.errors import Refusal, _, explain
from vectors.fetching import Fetched, Source, fetch, forget
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.forms import FULL


class Command(BaseCommand):
    help = (
        "Brings a foundation or a vector with its card from any place that speaks the hub "
        "protocol. A LoRA, a delta, and a checkpoint whose card names a base that is here are "
        "vectors of their base. Run it again after a break: it goes on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("repo_id", help="repository id there, org/name")
        add("--endpoint", required=True, help="where, such as https://armory.example")
        add("--revision", default="main", help="branch, tag or commit there (default main)")
        add("--as", dest="name", default="", help="repository id here (default: the same name)")
        add("--kind", choices=("foundation", "vector"), help="what it is, where it is not clear")
        add("--foundation", default="", help="the vector's foundation here")
        add("--owner", default="", help="the vector's owner here (default: the id's first half)")
        add("--token", default="", help="a token for the place that it comes from")

    def handle(self, *args: Any, **options: Any) -> None:
        source = Source(
            options["endpoint"].rstrip("/"),
            options["repo_id"],
            options["revision"],
            options["token"],
        )
        try:
            fetched = fetch(source)
            base = base_of(fetched, options["foundation"])
            whole = fetched.form == FULL and base is None and not options["owner"]
            kind = options["kind"] or ("foundation" if whole else "vector")
            if kind == "foundation":
                row = add_foundation(fetched.folder, repo_id=options["name"] or source.repo_id)
                said = f"{row.repo_id}: {row.parameters:,} parameters, {row.dtype}"
            else:
                said = self._add_vector(fetched, base, source.repo_id, options)
        except Problem as problem:
            raise CommandError(explain(problem)) from problem
        forget(fetched)
        self.stdout.write(said)

    def _add_vector(
        self, fetched: Fetched, base: Foundation | None, there: str, options: dict[str, Any]
    ) -> str:
        if base is None:
            raise Refusal(
                _(
                    "%(id)s was trained from %(base)s, which is not here: bring that first, or "
                    "name its foundation with --foundation."
                ),
                id=there,
                base=", ".join(fetched.bases) or "a model that it does not name",
            )
        wanted: str = options["name"] or there
        name = options["owner"] or wanted.partition("/")[0]
        owner = get_user_model().objects.filter(username=name).first()
        if owner is None:
            raise Refusal(_("There is no user %(name)s here: say --owner."), name=name)
        repo_id = options["name"] or f"{name}/{there.rpartition('/')[2]}"
        version = add_vector(fetched.folder, repo_id=repo_id, foundation=base, owner=owner)
        verdict = version.verdict
        touched = f"{verdict['touched']} of {verdict['of']} tensors"
        return f"{version}: {version.form} on {base.repo_id}, {touched}; published"


def base_of(fetched: Fetched, named: str) -> Foundation | None:
    """The foundation here that ``named`` is or, where nothing is named, that the files name."""
    if named:
        found = by_name(named)
        if found is None:
            raise Refusal(_("There is no foundation %(name)s here."), name=named)
        return found
    return next((found for name in fetched.bases if (found := by_name(name))), None)
