"""Addresses of the hub protocol. Before all others, because any two words are a repository."""

from django.urls import path

from marketplace.hub import (
    account_urls,
    listing_urls,
    reading,
    recipe_urls,
    write_urls,
    xet_urls,
)
from marketplace.hub.converters import ID

urlpatterns = [
    *listing_urls.urlpatterns,
    *write_urls.urlpatterns,
    *xet_urls.urlpatterns,
    *account_urls.urlpatterns,
    *recipe_urls.urlpatterns,
    path(f"{ID}/revision/<path:rev>", reading.model_info),
    path(f"{ID}/tree/<path:rest>", reading.tree),
    path(f"{ID}/paths-info/<path:rev>", reading.paths_info),
    path(f"{ID}/refs", reading.refs),
    path(f"{ID}/commits/<path:rev>", reading.commits),
    path(f"{ID}/auth-check", reading.auth_check),
    path(f"{ID}/auth-check/<str:kind>", reading.auth_check),
    path(f"{ID}/safetensors-metadata/<path:path>", reading.safetensors_metadata),
    path(ID, reading.model_info, name="hub_model"),
    path(
        "<str:namespace>/<str:name>/resolve/<str:rev>/<path:path>", reading.resolve, name="resolve"
    ),
    path("<str:name>/resolve/<str:rev>/<path:path>", reading.resolve_bare),
]
