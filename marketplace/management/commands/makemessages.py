"""`manage.py makemessages`: collects what is translated into the two Chinese files of locale/.

Beyond what Django finds, it collects `_l(…)`, our name for gettext_lazy where `_` only marks a
template of an error (see vectors/tensorfile/errors.py), and the texts that merge methods declare.
With --check it writes nothing and fails where the files lack a text or still have one too many.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polib
from django.core.management import CommandError, CommandParser
from django.core.management.commands import makemessages

from merging.engine.methods import METHODS

LOCALES = ["zh_Hant", "zh_Hans"]
# What no reader of a page sees. Django leaves out hidden folders by itself.
NOT_SHOWN = ["data", "tests", "demo", "benchmarks"]


class Command(makemessages.Command):
    help = "Collects the texts of the site into locale/*/LC_MESSAGES/django.po."
    xgettext_options = [
        *makemessages.Command.xgettext_options,
        "--keyword=_l",
    ]
    # A guess that must be looked at is more work than an empty line, and easier to overlook.
    msgmerge_options = [*makemessages.Command.msgmerge_options, "--no-fuzzy-matching"]

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--check", action="store_true", help="Write nothing; fail where the files are behind."
        )
        parser.set_defaults(locale=LOCALES, no_wrap=True, no_obsolete=True, add_location="file")

    def handle(self, *args: Any, **options: Any) -> None:
        self.check_only: bool = options["check"]
        self.behind: dict[str, None] = {}  # Django may come here more than once
        options["ignore_patterns"] = [*options["ignore_patterns"], *NOT_SHOWN]
        super().handle(*args, **options)
        if self.behind:
            raise CommandError("\n".join([*self.behind, "Run `make messages` and translate."]))

    def build_potfiles(self) -> list[str]:
        potfiles: list[str] = super().build_potfiles()
        for name in potfiles:
            add_declared(Path(name))
        return potfiles

    def write_po_file(self, potfile: str, locale: str) -> None:
        if not self.check_only:
            super().write_po_file(potfile, locale)
            return
        path = Path(potfile).parent / locale / "LC_MESSAGES" / "django.po"
        wanted, have = (
            {(entry.msgctxt, entry.msgid, entry.msgid_plural) for entry in polib.pofile(str(each))}
            for each in (potfile, path)
        )
        for word, keys in (("lacks", wanted - have), ("keeps", have - wanted)):
            self.behind |= {f"{locale} {word}: {key[1]}": None for key in sorted(keys, key=str)}


def add_declared(potfile: Path) -> None:
    """Add what the methods declare; take out the date, which would make each run a change."""
    pot = polib.pofile(str(potfile), wrapwidth=0)
    pot.metadata.pop("POT-Creation-Date", None)
    for text in declared():
        if pot.find(text) is None:
            pot.append(polib.POEntry(msgid=text, occurrences=[("merging/engine/methods", "")]))
    pot.save(str(potfile))


def declared() -> Iterator[str]:
    """What each method and its parameters say of themselves."""
    for method in METHODS.values():
        yield from (method.title, method.help)
        yield from (parameter.help for parameter in method.parameters)
