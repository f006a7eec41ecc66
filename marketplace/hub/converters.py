"""Repository ids in addresses. Imported for its effect: the converter ``repo``."""

from django.urls import register_converter
from django.urls.converters import StringConverter


class RepositoryId(StringConverter):
    """``namespace/name``, or the bare name of a foundation."""

    regex = "[^/]+(?:/[^/]+)?"


register_converter(RepositoryId, "repo")

# The beginning of every address about one repository; its view is called with ``repo_id``.
ID = "api/models/<repo:repo_id>"
