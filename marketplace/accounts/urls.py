"""Addresses of the account's own pages, beside those of allauth."""

from django.urls import path

from marketplace.accounts import views

urlpatterns = [
    path("settings/tokens", views.tokens, name="tokens"),
    path("settings/tokens/revoke", views.revoke_token, name="revoke_token"),
    path("settings/unpublished", views.unpublished, name="unpublished"),
    path("settings/unpublished/release", views.release, name="release"),
    path("device", views.device, name="device"),
]
