"""The address book of the site. Repository ids come last: any two words may be one."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

from marketplace.accounts import urls as accounts_urls
from marketplace.health import healthz
from marketplace.hub import urls as hub_urls
from marketplace.views import home, profile
from merging import urls as merging_urls
from vectors import upload_urls
from vectors import urls as vectors_urls

# The admin's own sign-in has no rate limit; allauth's has.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", home, name="home"),
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.account.urls")),
    *accounts_urls.urlpatterns,
    path("i18n/", include("django.conf.urls.i18n")),
    *hub_urls.urlpatterns,
    *merging_urls.urlpatterns,
    *vectors_urls.urlpatterns,
    path("uploads/", include(upload_urls)),
    path("<str:namespace>", profile, name="profile"),
    *vectors_urls.repository_patterns,
]
