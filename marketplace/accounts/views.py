"""The account's own pages: access tokens, and saying yes to a device."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from marketplace.accounts import devices
from marketplace.accounts.forms import CodeForm, ScopeForm, TokenForm
from marketplace.accounts.limits import within
from marketplace.accounts.tokens import make_token, revoke, tokens_of
from marketplace.models import DeviceLogin, Scope
from vectors.errors import Refusal, explain
from vectors.posting import post_only

CODES_TRIED = {"limit": 20, "seconds": 600}  # by one account


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """The visitor's access tokens. A new one is shown in the answer that made it, never again."""
    form, made, status = TokenForm(), "", 200
    if request.method == "POST":
        form, status = TokenForm(request.POST), 422
        if form.is_valid():
            data = form.cleaned_data
            try:
                made, _row = make_token(
                    user=request.user,
                    name=data["name"],
                    scope=data["scope"],
                    expires=form.expires(),
                )
                form, status = TokenForm(), 200
            except Refusal as refusal:
                form.add_error(None, explain(refusal))
    context = {
        "form": form,
        "made": made,
        "tokens": tokens_of(request.user),
        "now": timezone.now(),
    }
    return render(request, "accounts/tokens.html", context, status=status)


@post_only("tokens")
@login_required
def revoke_token(request: HttpRequest) -> HttpResponse:
    """Revoke one of one's own tokens."""
    number = request.POST.get("token", "")
    pk = int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else 0
    token = get_object_or_404(tokens_of(request.user), pk=pk)
    revoke(token)
    messages.success(request, _("The token “%(name)s” is revoked.") % {"name": token.name})
    return redirect("tokens")


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: HttpRequest) -> HttpResponse:
    """Type the code of a device, see what asks and from where, say yes or no."""
    typed = request.POST.get("code") or request.GET.get("code", "")
    if not typed:
        return render(request, "accounts/device.html", {"form": CodeForm()})
    login = None
    if within(f"device-page:{request.user.pk}", **CODES_TRIED):
        login = devices.find_login(typed)
    if login is None:
        form = CodeForm({"code": typed[:20]})
        form.add_error("code", explain(devices.no_such_code()))
        return render(request, "accounts/device.html", {"form": form}, status=422)
    if request.method == "POST" and request.POST.get("answer"):
        return _answer(request, login)
    return _asks(request, login)


def _asks(request: HttpRequest, login: DeviceLogin) -> HttpResponse:
    address, _space, program = login.client.partition(" ")
    context = {
        "login": login,
        "address": address,
        "program": program,
        "form": ScopeForm() if login.scope == Scope.WRITE else None,
    }
    return render(request, "accounts/device.html", context)


def _answer(request: HttpRequest, login: DeviceLogin) -> HttpResponse:
    try:
        if request.POST["answer"] == "approve":
            scope = request.POST.get("scope")
            wanted = Scope.WRITE if scope == Scope.WRITE else Scope.READ
            devices.approve(login, user=request.user, scope=wanted)
        else:
            devices.refuse(login, user=request.user)
    except Refusal as refusal:
        messages.error(request, explain(refusal))
        return redirect("device")
    login.refresh_from_db()
    return render(request, "accounts/device_done.html", {"login": login})
