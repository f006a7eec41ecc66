"""The site in 繁體中文 and 简体中文: nothing is missing or broken, each reader gets their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import opencc
import polib
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.utils import translation
from django.utils.translation import ngettext

from merging.engine.methods import METHODS
from merging.models import EquippedModel
from tests.merging.test_loadout import press, shop
from vectors.errors import explain
from vectors.models import Access, Foundation, Vector
from vectors.tensorfile.errors import Problem, _

__all__ = ["shop"]

LOCALES = {"zh-hant": "zh_Hant", "zh-hans": "zh_Hans"}
# What one reads and the other does not.
GLOSSARY = [
    ("檔案", "文件"),
    ("資料夾", "文件夹"),
    ("軟體", "软件"),
    ("預設", "默认"),
    ("網路", "网络"),
    ("登入", "登录"),
    ("帳號", "账号"),
    ("授權條款", "许可证"),
    ("權杖", "令牌"),
    ("位元組", "字节"),
    ("伺服器", "服务器"),
    ("記憶體", "内存"),
]
HELD = re.compile(
    r"""%\(\w+\)[\d.]*[sdf]  # a value that is filled in
      | %[sd%] | \{\w+\}     # the same, without a name or by a script
      | <[^>]+>              # a tag
    """,
    re.VERBOSE,
)


@pytest.fixture(autouse=True)
def _the_language_ends_with_the_test() -> Iterator[None]:
    """A request leaves its language behind in the thread."""
    with translation.override(settings.LANGUAGE_CODE):
        yield


def entries(locale: str) -> polib.POFile:
    return polib.pofile(str(Path(settings.LOCALE_PATHS[0]) / locale / "LC_MESSAGES" / "django.po"))


def texts(entry: polib.POEntry) -> list[str]:
    return list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]


def held(text: str) -> Counter[str]:
    """What a translation takes over as it is: places for values, tags, and `code`."""
    return Counter(HELD.findall(text)) + Counter(re.findall(r"`[^`]*`", text))


def spaces(text: str) -> tuple[str, str]:
    """The white space around it: such a text is part of a longer one."""
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


def test_every_text_of_the_site_is_in_both_files() -> None:
    call_command("makemessages", check=True, verbosity=0)


@pytest.mark.parametrize("locale", LOCALES.values())
def test_every_text_is_translated(locale: str) -> None:
    file = entries(locale)
    assert len(file) > 1000
    assert not [entry.msgid for entry in file if not entry.translated() or entry.obsolete]


@pytest.mark.parametrize("locale", LOCALES.values())
def test_a_translation_holds_what_its_text_holds(locale: str) -> None:
    wrong = [
        (entry.msgid, text)
        for entry in entries(locale)
        for text in texts(entry)
        if held(text) != held(entry.msgid_plural or entry.msgid)
        or spaces(text) != spaces(entry.msgid)
    ]
    assert not wrong


def test_each_is_written_in_its_own_words_and_glyphs() -> None:
    hant = "\n".join(text for entry in entries("zh_Hant") for text in texts(entry))
    hans = "\n".join(text for entry in entries("zh_Hans") for text in texts(entry))
    to_hans = opencc.OpenCC("t2s").convert
    assert to_hans(hans) == hans
    strays = [
        (word, line)
        for traditional, simplified in GLOSSARY
        for word, lines in ((simplified, to_hans(hant)), (to_hans(traditional), hans))
        for line in lines.splitlines()
        if word in line
    ]
    assert not strays


@pytest.mark.parametrize(("language", "locale"), LOCALES.items())
def test_the_one_plural_form_serves_any_number(language: str, locale: str) -> None:
    counted = [entry for entry in entries(locale) if entry.msgid_plural]
    assert counted
    with translation.override(language):
        for entry in counted:
            said = {ngettext(entry.msgid, entry.msgid_plural, n) for n in (0, 1, 2, 5)}
            assert said == set(texts(entry))


@pytest.mark.parametrize(
    ("accepted", "language", "nav"),
    [
        ("zh-TW,zh;q=0.9,en;q=0.8", "zh-hant", ("基礎模型", "配裝")),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-hans", ("基础模型", "配装")),
        ("zh", "zh-hant", ("基礎模型", "配裝")),
        ("zh-HK", "zh-hant", ("基礎模型", "配裝")),
        ("zh-SG", "zh-hans", ("基础模型", "配装")),
        ("de", "en", ("Foundations", "Loadout")),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_pages_speak_the_language_that_was_asked_for(
    shop: Foundation, accepted: str, language: str, nav: tuple[str, str]
) -> None:
    client = Client(headers={"accept-language": accepted})
    for page in ("/", "/vectors", "/foundations", "/olive/law", "/loadout?v=olive/law", "/no/such"):
        text = client.get(page).content.decode()
        assert f'<html lang="{language}">' in text, page
        assert all(word in text for word in nav), page


@pytest.mark.parametrize("chosen", LOCALES)
@pytest.mark.django_db
def test_the_language_that_was_chosen_is_kept_whatever_the_browser_says(chosen: str) -> None:
    client = Client(headers={"accept-language": "en"})
    client.post("/i18n/setlang/", {"language": chosen, "next": "/"})
    assert f'<html lang="{chosen}">' in client.get("/vectors").content.decode()


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("zh-hant", "這裡應該是向量的名稱："), ("zh-hans", "这里应该是向量的名称：")],
)
@pytest.mark.django_db
def test_a_refusal_of_the_engine_is_read_in_ones_own_language(language: str, sentence: str) -> None:
    client = Client(headers={"accept-language": language})
    answer = client.post("/loadout", {"do": "read", "formula": "olive/law + +"}, follow=True)
    assert sentence in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_who_may_not_use_a_recipe_reads_why_in_ones_own_language(shop: Foundation) -> None:
    client = Client(headers={"accept-language": "zh-hant"})
    press(client, "equip", "on=lab/tiny&v=olive/law&c=1")
    Vector.objects.update(access=Access.MANUAL)
    answer = client.get(EquippedModel.objects.get().get_absolute_url())
    assert answer.status_code == 403
    assert "使用這個模型需要其中所有向量的存取權" in answer.content.decode()


def test_each_sentence_of_a_refusal_is_translated_and_what_is_marked_in_it_but_no_name() -> None:
    template = _("There is no chat template in %(label)s. Keep the target's.")
    fits = _("It fits %(other)s: choose that foundation.")
    problem = Problem(f"{template}\n{fits}", label=_("the target"), other="the target")
    with translation.override("zh-hant"):
        said = explain(problem)
    assert said == (
        "目標模型 裡沒有對話樣板。請保留目標模型的。 它和 the target 相容：請選那個基礎模型。"
    )
    assert str(problem) == (
        "There is no chat template in the target. Keep the target's. "
        "It fits the target: choose that foundation."
    )


@pytest.mark.parametrize("language", LOCALES)
def test_what_a_method_says_of_itself_is_translated(language: str) -> None:
    with translation.override(language):
        for method in METHODS.values():
            assert translation.gettext(method.help) != method.help
            for parameter in method.parameters:
                assert translation.gettext(parameter.help) != parameter.help
