"""The wizard's forms."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from vectors.describe import LICENSES, TASKS, check_free, check_name, claim_of
from vectors.errors import Refusal, explain
from vectors.models import Foundation


class FoundationForm(forms.Form):
    """Step 2: which foundation the upload was trained from."""

    foundation = forms.ModelChoiceField(
        Foundation.objects.defer("manifest", "card", "card_html").order_by("namespace", "name"),
        label=_("Foundation model"),
        help_text=_("The exact checkpoint you fine-tuned, not only the same architecture."),
        empty_label=_("Choose the foundation"),
    )


class PublishForm(forms.Form):
    """Step 4: how the vector is presented."""

    name = forms.CharField(
        label=_("Name"),
        max_length=96,
        help_text=_("The second half of its address."),
    )
    title = forms.CharField(label=_("Title"), max_length=120, required=False)
    summary = forms.CharField(
        label=_("Summary"),
        max_length=200,
        required=False,
        help_text=_("One sentence: what does a model learn from it?"),
    )
    license = forms.ChoiceField(
        label=_("Licence"),
        required=False,
        choices=[("", _("Not stated")), *((name, name) for name in LICENSES)],
    )
    pipeline_tag = forms.ChoiceField(
        label=_("Task"),
        required=False,
        choices=[("", _("Not stated")), *((name, name.replace("-", " ")) for name in TASKS)],
    )
    languages = forms.CharField(
        label=_("Languages"),
        max_length=120,
        required=False,
        help_text=_("Codes separated by spaces, such as: en fr zh"),
    )
    tags = forms.CharField(label=_("Tags"), max_length=300, required=False)
    card = forms.CharField(
        label=_("Card"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 14, "spellcheck": "true"}),
        help_text=_("Markdown. What it learned, from which data, how it was measured, its limits."),
    )

    def __init__(self, *args: Any, namespace: str, existing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.namespace = namespace
        if existing:
            del self.fields["name"]
        for name in ("license", "pipeline_tag"):
            value = self.initial.get(name)
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            choices = list(field.choices)  # type: ignore[arg-type]
            if value and value not in dict(choices):
                field.choices = [*choices, (value, value)]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"].strip()
        try:
            check_name(name)
            check_free(self.namespace, name, but=claim_of(self.namespace, name))
        except Refusal as refusal:
            raise ValidationError(explain(refusal)) from None
        return name

    def typed(self) -> dict[str, str]:
        """What was sent, right or wrong, to fill the form in with once more."""
        return {name: self.data.get(name, "") for name in self.fields}

    def described(self) -> dict[str, Any]:
        """The fields as ``describe`` takes them."""
        data = self.cleaned_data
        return {
            "title": data["title"],
            "summary": data["summary"],
            "license": data["license"],
            "pipeline_tag": data["pipeline_tag"],
            "languages": data["languages"].replace(",", " ").lower().split(),
            "tags": [tag for tag in data["tags"].replace(",", " ").split() if tag][:20],
        }
