"""Addresses of equipped models."""

from django.urls import path

from merging import lecture_views, loadout_views, views

urlpatterns = [
    path("how-merging-works", lecture_views.lecture, name="lecture"),
    path("loadout", loadout_views.loadout, name="loadout"),
    path("loadout/forecast", loadout_views.loadout_forecast, name="loadout_forecast"),
    path("loadouts/<slug:slug>", loadout_views.saved_loadout, name="saved_loadout"),
    path("loadouts/<slug:slug>/delete", loadout_views.delete_loadout, name="delete_loadout"),
    path("equip", views.equip, name="equip"),
    path("equipped/<slug:slug>.zip", views.equipped_zip, name="equipped_zip"),
    path("equipped/<slug:slug>/lora.zip", views.equipped_lora, name="equipped_lora"),
    path(
        "equipped/<slug:slug>/delta.safetensors",
        views.equipped_difference,
        name="equipped_difference",
    ),
    path("equipped/<slug:slug>", views.equipped, name="equipped"),
]
