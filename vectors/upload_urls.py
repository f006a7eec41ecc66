"""The addresses of uploads, below ``uploads/``."""

from django.urls import path

from vectors import upload_views

urlpatterns = [
    path("", upload_views.create_draft, name="upload_create"),
    path("form", upload_views.upload_form, name="upload_form"),
    path("drafts/<int:pk>", upload_views.show_draft, name="upload_draft"),
    path("<uuid:pk>/parts/<int:number>", upload_views.receive_part, name="upload_part"),
    path("<uuid:pk>/complete", upload_views.complete, name="upload_complete"),
]
