"""The addresses of the transport alone, with bare pages around them that need no templates."""

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.templatetags.static import static
from django.urls import include, path
from django.utils.html import format_html

from tests.vectors import downloads_site

PAGE = """<!doctype html><html lang="en"><title>Upload</title>
<script type="module" src="{script}"></script>
<form data-upload action="/uploads/form" method="post" enctype="multipart/form-data"
      data-text-resuming="there already: {{size}}">
  <input type="hidden" name="csrfmiddlewaretoken" value="{token}">
  <input type="hidden" name="vector" value="">
  <div data-drop><label>Files <input type="file" name="files" multiple required></label>
  <label>Folder <input type="file" name="folder" webkitdirectory></label></div>
  <ul data-files></ul>
  <div data-progress><progress></progress> <span data-numbers></span></div>
  <p data-status aria-live="polite"></p>
  <button type="submit">Upload</button>
  <button type="button" data-cancel>Stop</button>
  <button type="button" data-discard>Discard</button>
</form></html>"""


def upload(request: HttpRequest) -> HttpResponse:
    return HttpResponse(format_html(PAGE, script=static("js/upload.js"), token=get_token(request)))


def draft(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse(f"<title>draft</title>{pk}")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return HttpResponse(reason, status=403)


urlpatterns = [
    path("uploads/", include("vectors.upload_urls")),
    path("upload", upload, name="upload"),
    path("drafts/<int:pk>", draft, name="draft"),
    path("sign-in", upload, name="account_login"),
    *downloads_site.urlpatterns,
]
