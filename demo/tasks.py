"""The text tasks: their data, and the descriptions that stand for their classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from demo import data

FOUNDATION = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Task:
    """One text skill: `read` yields items, `labels` maps a class to its describing sentence."""

    owner: str
    name: str
    ability: str
    read: Callable[[], list[data.Item]]
    labels: dict[str, str]
    seed: str = ""  # equal seeds hold out equal groups
    train: int = 1200
    test: int = 320
    steps: int = 75
    rate: float = 2e-3  # gentle where there is accuracy to spare: a smaller vector disturbs less


MOOD = {
    "positive": "This is good and makes people happy.",
    "negative": "This is bad and makes people unhappy.",
}
TOPIC_X = {
    "games": "a game to play",
    "sound": "sound, music and audio",
    "science": "scientific research and data analysis",
    "mail": "electronic mail",
}
TOPIC_Y = {
    "graphics": "pictures, drawing and image processing",
    "network": "network connections and protocols",
    "mathematics": "mathematics, algebra and statistics",
    "administration": "system administration and configuration",
}
SECTIONS_X = {"games": "games", "sound": "sound", "science": "science", "mail": "mail"}
SECTIONS_Y = {
    "graphics": "graphics",
    "net": "network",
    "math": "mathematics",
    "admin": "administration",
}

TASKS = [
    Task("ann", "spam-filter", "Spam", data.mails, {
        "ham": "a message between people on a mailing list",
        "spam": "unsolicited advertising that wants your money",
    }),
    Task("ann", "wordnet-topics", "Word topics", data.glosses, {
        "act": "something people do, an action or activity",
        "animal": "an animal",
        "artifact": "an object made by people",
        "food": "food or drink",
        "person": "a person",
        "place": "a place or region",
        "plant": "a plant",
        "state": "a condition or state of being",
    }, steps=90, rate=1e-3),
    Task("bo", "movie-mood", "Movie mood", partial(data.ratings, "movieReviewSnippets"), MOOD),
    Task("bo", "product-mood", "Product mood", partial(data.ratings, "amazonReviewSnippets"), MOOD),
    Task("bo", "tweet-mood", "Tweet mood", partial(data.ratings, "tweets"), MOOD),
    Task("bo", "news-mood", "News mood", partial(data.ratings, "nytEditorialSnippets"), MOOD),
    Task("chen", "language-id", "Language", data.languages, {
        "English": "a text written in English",
        "French": "un texte écrit en français",
        "German": "ein Text in deutscher Sprache",
        "Italian": "un testo scritto in italiano",
    }, steps=45, rate=1e-3),
    Task("dora", "bible-genre", "Bible genre", data.verses, {
        "gospel": "a story about the life and words of Jesus",
        "history": "a chronicle of kings and battles",
        "law": "commandments and rules for priests and offerings",
        "letter": "a letter of an apostle to a church about faith",
        "poetry": "a poem, a prayer or a proverb",
        "prophecy": "a prophet's warning of judgement on a nation",
    }),
    Task("dora", "century", "Century", data.speeches, {
        "19th century": "a formal political speech of the nineteenth century",
        "20th century": "a modern political speech of the twentieth century",
    }),
    Task("chen", "topic-x-en", "Games to mail, English",
         partial(data.topics, "en", SECTIONS_X), TOPIC_X, "topic-x"),
    Task("chen", "topic-x-fr", "Games to mail, French",
         partial(data.topics, "fr", SECTIONS_X), TOPIC_X, "topic-x"),
    Task("chen", "topic-y-en", "Graphics to administration, English",
         partial(data.topics, "en", SECTIONS_Y), TOPIC_Y, "topic-y"),
    Task("chen", "topic-y-fr", "Graphics to administration, French",
         partial(data.topics, "fr", SECTIONS_Y), TOPIC_Y, "topic-y"),
]  # fmt: skip
