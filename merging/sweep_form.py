"""The form that says which coefficients a sweep tries."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from merging.models import EquippedModel

ALL = "all"
MOST = 9  # settings in one sweep of the page
LIMIT = 10


class SweepForm(forms.Form):
    """Evenly spaced sizes, for all vectors together or for one; each keeps its own sign."""

    which = forms.ChoiceField(label=_("Of"))
    low = forms.DecimalField(
        label=_("from"), initial=Decimal("0.3"), min_value=-LIMIT, max_value=LIMIT, decimal_places=3
    )
    high = forms.DecimalField(
        label=_("to"), initial=Decimal("1"), min_value=-LIMIT, max_value=LIMIT, decimal_places=3
    )
    steps = forms.IntegerField(label=_("steps"), initial=8, min_value=2, max_value=MOST)

    def __init__(self, row: EquippedModel, data: Any = None) -> None:
        super().__init__(data, auto_id="sweep-%s")
        self.terms = list(row.terms.all())
        choices: list[tuple[str, Any]] = []
        if len(self.terms) > 1:
            choices.append((ALL, _("all vectors together")))
        choices += [(str(i), _label(term)) for i, term in enumerate(self.terms)]
        field = self.fields["which"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices
        for name in ("low", "high"):
            self.fields[name].widget.attrs |= {"step": "0.05", "inputmode": "decimal"}

    @classmethod
    def asked(cls, row: EquippedModel, query: Any) -> SweepForm:
        """The form as ``query`` of the page's address fills it in, with what is wrong with it."""
        return cls(row, query if "steps" in query else None)

    def query(self) -> str:
        """What was typed, for the page's address."""
        return urlencode({name: str(self.data.get(name, ""))[:40] for name in self.fields})

    def clean(self) -> dict[str, Any]:
        """Two ends that are one are no sweep."""
        data = super().clean() or {}
        if "low" in data and "high" in data and data["low"] == data["high"]:
            raise ValidationError(
                _("A sweep goes from one coefficient to another: both are %(n)s."),
                params={"n": data["low"]},
            )
        return data

    def settings(self) -> list[list[Decimal]]:
        """A coefficient per vector of the recipe, for each step."""
        data = self.cleaned_data
        span, last = data["high"] - data["low"], data["steps"] - 1
        sizes = [round(data["low"] + span * step / last, 4) for step in range(last + 1)]
        return [
            [
                (-size if term.coefficient < 0 else size)
                if data["which"] in (ALL, str(index))
                else Decimal(term.coefficient)
                for index, term in enumerate(self.terms)
            ]
            for size in sizes
        ]


def _label(term: Any) -> str:
    vector = term.version.vector
    return vector.label if vector is not None else str(term.version)
