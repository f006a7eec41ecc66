"""The tasks of the Hub by name, in the language of who reads."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

NAMES: dict[str, str | Promise] = {
    "text-classification": _("text classification"),
    "token-classification": _("token classification"),
    "question-answering": _("question answering"),
    "table-question-answering": _("table question answering"),
    "zero-shot-classification": _("zero-shot classification"),
    "translation": _("translation"),
    "summarization": _("summarization"),
    "feature-extraction": _("feature extraction"),
    "text-generation": _("text generation"),
    "text2text-generation": _("text-to-text generation"),
    "fill-mask": _("fill mask"),
    "sentence-similarity": _("sentence similarity"),
    "text-ranking": _("text ranking"),
    "text-to-speech": _("text to speech"),
    "automatic-speech-recognition": _("speech recognition"),
    "audio-classification": _("audio classification"),
    "image-classification": _("image classification"),
    "zero-shot-image-classification": _("zero-shot image classification"),
    "object-detection": _("object detection"),
    "image-segmentation": _("image segmentation"),
    "depth-estimation": _("depth estimation"),
    "image-feature-extraction": _("image feature extraction"),
    "image-to-text": _("image to text"),
    "image-to-image": _("image to image"),
    "text-to-image": _("text to image"),
    "text-to-video": _("text to video"),
    "image-text-to-text": _("image and text to text"),
    "visual-question-answering": _("visual question answering"),
    "document-question-answering": _("document question answering"),
    "time-series-forecasting": _("time series forecasting"),
    "tabular-classification": _("tabular classification"),
    "reinforcement-learning": _("reinforcement learning"),
    "robotics": _("robotics"),
}


def task_name(task: str) -> str:
    """The task's name; one that is not listed is shown as its card has it, without hyphens."""
    return str(NAMES.get(task) or task.replace("-", " "))
