"""Names of users. A user's name is the first half of every repository id (`ann/spam-filter`), so
it shares the top of the URL space with the site's own pages."""

import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from vectors.models import Foundation

USERNAME_PATTERN = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
USERNAME_LENGTH = (2, 39)

# First parts of URLs the site has or may want, words a client of the hub protocol uses there, and
# words that would pass for the staff. Compared in lower case.
RESERVED_NAMES = frozenset(
    """
    about accounts admin administrator api apps armory auth blobs blog bucket buckets builds
    cache cart chat checkout collections compare contact cookies covers dashboard data datasets
    demo device discussions docs download downloads drafts enterprise equip equipped errors
    explore feed forecast form forms foundation foundations global grants health healthz help
    home how-merging-works i18n inbox index info jobs join jsi18n kernels legal library listing
    listings loadout loadouts local locale login logout mail market me media members methods
    metrics models moderator money new news none notifications null oauth offers official order
    orders org organization organizations orgs papers password payment ping policy posts pricing
    privacy profile profiles public purchases raw recipe recipes register repo repos resolve
    resources robots root sales search security sell sessions settings shop signin signout
    signup sitemap spaces staff static status storage store stream support swap swap-offers
    swaps system tags tasks team terms test token tokens tree trending undefined upload uploads
    user users v1 vector vectors wallet wallets webhooks well-known whoami whoami-v2 www xet
    """.split()
)


def check_username_form(name: str) -> None:
    """Raise ValidationError unless the name has 2 to 39 letters, digits and single hyphens between
    them: clients of the hub protocol refuse a repository id with two in a row."""
    shortest, longest = USERNAME_LENGTH
    if not shortest <= len(name) <= longest or not USERNAME_PATTERN.fullmatch(name):
        raise ValidationError(
            _(
                "A name has %(shortest)d to %(longest)d letters (a–z) or digits; "
                "single hyphens may stand between them."
            ),
            code="username_form",
            params={"shortest": shortest, "longest": longest},
        )


def check_username_free(name: str) -> None:
    """Raise ValidationError if the site keeps the name for itself, or for the makers of a
    foundation: who has a name speaks for all repositories that begin with it."""
    if name.lower() in RESERVED_NAMES:
        raise ValidationError(
            _("“%(name)s” is kept for the site itself. Choose another name."),
            code="username_reserved",
            params={"name": name},
        )
    if Foundation.objects.filter(namespace__iexact=name).exists():
        raise ValidationError(
            _("“%(name)s” is kept for the makers of a foundation model. Choose another name."),
            code="username_reserved",
            params={"name": name},
        )


# Named by ACCOUNT_USERNAME_VALIDATORS, which wants a list.
username_validators = [check_username_form, check_username_free]
