"""Addresses of equipped models."""

from django.urls import path

from merging import views

urlpatterns = [
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
