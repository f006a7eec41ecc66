"""The lowest app: what exists."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class VectorsConfig(AppConfig):
    name = "vectors"
    verbose_name = _("Vectors")
