"""`manage.py makemessages` that also finds `_l(…)`, our name for gettext_lazy where `_` only marks
a template of an error (see vectors/tensorfile/errors.py)."""

from django.core.management.commands import makemessages


class Command(makemessages.Command):
    xgettext_options = [
        *makemessages.Command.xgettext_options,
        "--keyword=_l",
    ]
