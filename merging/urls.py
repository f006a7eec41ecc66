"""Addresses of equipped models."""

from django.urls import path

from merging import build_views, check_views, lecture_views, loadout_views, views

urlpatterns = [
    path("how-merging-works", lecture_views.lecture, name="lecture"),
    path("loadout", loadout_views.loadout, name="loadout"),
    path("loadout/forecast", loadout_views.loadout_forecast, name="loadout_forecast"),
    path("loadout/inventory", loadout_views.loadout_inventory, name="loadout_inventory"),
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
    path("equipped/<slug:slug>/build", build_views.build, name="start_build"),
    path("equipped/<slug:slug>/build/progress", build_views.progress, name="build_progress"),
    path("equipped/<slug:slug>/build/events", build_views.events, name="build_events"),
    path("equipped/<slug:slug>/build/stop", build_views.stop, name="stop_build"),
    path("equipped/<slug:slug>/files", build_views.files, name="equipped_files"),
    path("equipped/<slug:slug>/check", check_views.check, name="start_check"),
    path("equipped/<slug:slug>/sweep", check_views.sweep, name="start_sweep"),
    path("equipped/<slug:slug>/checks", check_views.checks, name="equipped_checks"),
    path("equipped/<slug:slug>/checks/<slug:job>", check_views.progress, name="check_progress"),
    path("equipped/<slug:slug>/checks/<slug:job>/events", check_views.events, name="check_events"),
    path("equipped/<slug:slug>/checks/<slug:job>/stop", check_views.stop, name="stop_check"),
    path("equipped/<slug:slug>", views.equipped, name="equipped"),
    path("<str:namespace>/<str:name>/measure", check_views.measure, name="measure_again"),
]
