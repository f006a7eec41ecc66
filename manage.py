#!/usr/bin/env python
"""Armory's command line: `python manage.py help`."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError as error:
        raise SystemExit("Django is not installed here: run `make install` first.") from error
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
