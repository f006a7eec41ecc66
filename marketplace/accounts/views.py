"""The account's own pages: access tokens, saying yes to a device, names kept and not used yet."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from marketplace.accounts import devices
from marketplace.accounts.forms import CodeForm, ScopeForm, TokenForm
from marketplace.accounts.limits import within
from marketplace.accounts.tokens import make_token, revoke, tokens_of
from marketplace.models import DeviceLogin, Scope
from vectors import claims
from vectors.dropping import discard
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
    token = get_object_or_404(tokens_of(request.user), pk=number_of(request.POST.get("token", "")))
    revoke(token)
    messages.success(request, _("The token “%(name)s” is revoked.") % {"name": token.name})
    return redirect("tokens")


@login_required
@require_safe
def unpublished(request: HttpRequest) -> HttpResponse:
    """Names the visitor keeps without a publication, and pushes that are not whole yet."""
    names = claims.claims_by_touch().filter(owner=request.user.pk).order_by("namespace", "name")
    pushes = claims.incomplete().filter(owner=request.user.pk).select_related("vector", "claim")
    context = {
        "names": [{"claim": each, "until": each.touched + claims.KEPT} for each in names],
        "pushes": [
            {"version": each, "until": each.created + claims.KEPT}
            for each in pushes.order_by("-pk")
        ],
        "days": claims.KEPT.days,
    }
    return render(request, "accounts/unpublished.html", context)


@post_only("unpublished")
@login_required
def release(request: HttpRequest) -> HttpResponse:
    """Give up one of one's own names with all that was pushed to it, or one incomplete push."""
    if "push" in request.POST:
        own = claims.incomplete().filter(owner=request.user.pk)
        push = get_object_or_404(own, pk=number_of(request.POST["push"]))
        discard(push)
        messages.success(request, _("The push is discarded."))
    else:
        own_names = claims.claims_by_touch().filter(owner=request.user.pk)
        claim = get_object_or_404(own_names, pk=number_of(request.POST.get("name", "")))
        claims.delete(claim)
        messages.success(request, _("%(id)s is free again.") % {"id": claim.repo_id})
    return redirect("unpublished")


def number_of(text: str) -> int:
    """A row's number as a form sends it; 0, which no row has, for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


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
