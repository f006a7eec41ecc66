"""Forms around who is let in."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from vectors.models import Access, Visibility


class SharingForm(forms.Form):
    """Who finds a vector, and what it takes to read and equip it."""

    visibility = forms.ChoiceField(
        label=_("Who sees it"),
        widget=forms.RadioSelect,
        choices=[
            (Visibility.PUBLIC, _("Everybody")),
            (Visibility.PRIVATE, _("You and those you let in; nobody else learns that it exists")),
        ],
    )
    access = forms.ChoiceField(
        label=_("Who may read and equip it"),
        widget=forms.RadioSelect,
        choices=[
            (Access.OPEN, _("Everybody who sees it")),
            (Access.AUTO, _("Whoever signs in and asks, at once")),
            (Access.MANUAL, _("Those who ask and whom you let in")),
            (Access.PAID, _("Those who buy it; until there is a till here, those you let in")),
        ],
    )


class GiveForm(forms.Form):
    """Let somebody in by name."""

    username = forms.CharField(
        label=_("User name"), max_length=39, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
