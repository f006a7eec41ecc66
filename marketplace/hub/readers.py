"""Who reads, as far as counting goes: an account, or an address that nobody can read back."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Any

from django.http import HttpRequest
from django.utils.crypto import salted_hmac

# Machines that say of themselves that nobody sits before them: transformers under its own tests
# (is_ci/true), jobs with HF_HUB_USER_AGENT_ORIGIN=ci, runners, and what walks the web.
_AUTOMATIC = re.compile(
    r"\bis_ci/true\b|\borigin/ci\b|\bgithub-actions\b|\bgitlab-(?:ci|runner)\b|\bjenkins\b"
    r"|[\w-]*bot\b|\bcrawler\b|\bspider\b",
    re.IGNORECASE,
)


def reader_of(request: HttpRequest, user: Any) -> str:
    """A name for whoever sends ``request``, in 64 characters: the account's, or a keyed hash of
    the address."""
    if user is not None and user.is_authenticated:
        return f"user-{user.pk}"
    return salted_hmac("armory.reader", _network(request), algorithm="sha256").hexdigest()


def is_automatic(request: HttpRequest) -> bool:
    """Whether the request says of itself that a machine sends it unasked."""
    return bool(_AUTOMATIC.search(request.headers.get("User-Agent", "")[:1000]))


def _network(request: HttpRequest) -> str:
    # One household has 2^64 addresses of IPv6 and changes them as it likes.
    text = request.META.get("REMOTE_ADDR", "")
    try:
        address = ip_address(text)
    except ValueError:
        return str(text)
    return address.exploded[:19] if isinstance(address, IPv6Address) else text
