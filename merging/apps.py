"""The middle app: what is computed."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MergingConfig(AppConfig):
    name = "merging"
    verbose_name = _("Merging")

    def ready(self) -> None:
        from merging import build_wiring  # noqa: F401
        from merging.checks import wiring  # noqa: F401
