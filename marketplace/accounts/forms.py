"""Forms of the account's own pages."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from marketplace.models import Scope

SCOPES = [
    (Scope.READ, _("Read: what you may see and download")),
    (Scope.WRITE, _("Read and write: push, change settings, give access too")),
]
FOR_EVER = "for-ever"
LASTS = [
    ("30", _("30 days")),
    ("90", _("90 days")),
    ("365", _("One year")),
    (FOR_EVER, _("For ever")),
]


class TokenForm(forms.Form):
    """A new access token."""

    name = forms.CharField(
        label=_("Name"),
        max_length=80,
        help_text=_("Where it will be used, such as “laptop” or “training server”."),
    )
    scope = forms.ChoiceField(
        label=_("What it may do"), choices=SCOPES, initial=Scope.READ, widget=forms.RadioSelect
    )
    lasts = forms.ChoiceField(label=_("Lasts"), choices=LASTS, initial="90")

    def expires(self) -> datetime | None:
        """When the token ends; None where it does not."""
        days = self.cleaned_data["lasts"]
        return None if days == FOR_EVER else timezone.now() + timedelta(days=int(days))


class CodeForm(forms.Form):
    """The code that a device shows."""

    code = forms.CharField(
        label=_("Code"),
        max_length=20,
        help_text=_("Eight letters, as the device shows them."),
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "characters", "spellcheck": "false"}
        ),
    )


class ScopeForm(forms.Form):
    """What a device may do once it is let in."""

    scope = forms.ChoiceField(
        label=_("What it may do"), choices=SCOPES, initial=Scope.WRITE, widget=forms.RadioSelect
    )
