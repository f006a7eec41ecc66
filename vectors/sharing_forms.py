"""Forms around who is let in."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from vectors import sharing
from vectors.errors import Refusal, explain
from vectors.models import Access, Vector, Visibility


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

    def __init__(self, vector: Vector, data: Any = None) -> None:
        super().__init__(data)
        self.vector = vector

    @classmethod
    def asked(cls, vector: Vector, query: Any) -> GiveForm:
        """The form as ``query`` of the page's address fills it in, with what is wrong with it."""
        return cls(vector, query if "username" in query else None)

    def query(self) -> str:
        """What was typed, for the page's address."""
        return urlencode({"username": str(self.data.get("username", ""))[:40]})

    def clean_username(self) -> Any:
        """The user of that name, who may be let in."""
        try:
            user = sharing.user_called(self.cleaned_data["username"])
            sharing.check_may_give(self.vector, user=user)
        except Refusal as refusal:
            raise ValidationError(explain(refusal)) from None
        return user
