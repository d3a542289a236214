"""A trained network as one file: safetensors, with everything needed to build and to use it in the metadata.

`load` gives the network back, ready for images: three lines of Python, on anybody's machine.

    model = darts_core.load("model.safetensors")
    image = model.transform(PIL.Image.open("cat.png"))        # (C, H, W)
    print(model.classes[model(image[None]).argmax()])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from darts_core import io, language_file
from darts_core.config import SearchConfig
from darts_core.data import Stream
from darts_core.data import load as load_images
from darts_core.data.files import read_image
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.language_file import LanguageFile
from darts_core.nets.derived import network_of
from darts_core.nets.fixed import STEMS
from darts_core.runs import RunReader
from darts_core.seeds import seed
from darts_core.tasks import image_task
from darts_core.training import network
from darts_core.weights_file import agree, last_state, pack, unpack

SCHEMA = 1
LIMIT = 2 << 30  # bytes of a model file
KEY = "network"  # of the metadata
CHOICES: Mapping[str, Any] = {
    "image_channels": (int, 1, 16), "classes": (int, 2, 100_000), "channels": (int, 2, 256), "cells": (int, 1, 40),
    "stem_multiplier": (int, 1, 8), "stem_stride": (int, 1, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What a file says of its network: enough to build it, to prepare an image, and to name what it sees."""

    genotype: Genotype
    layout: dict[str, Any]  # keyword arguments of `Network`
    size: tuple[int, int]  # height and width of the images it was trained on
    mean: tuple[float, ...]  # per channel, of values from 0 to 1
    std: tuple[float, ...]
    classes: tuple[str, ...]
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # "test_accuracy", "dataset", "cell" ...

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA, "genotype": self.genotype.to_json(),
            "layout": {**self.layout, "reductions": list(self.layout["reductions"])},
            "size": list(self.size), "mean": list(self.mean), "std": list(self.std), "classes": list(self.classes),
            "note": self.note, "facts": self.facts,
        }  # fmt: skip

    @staticmethod
    def from_json(data: Any, where: str) -> Card:
        """Read what `to_json` wrote; every number that decides a size is bounded.

        Raises:
            BadInput: names what is wrong.
        """
        again = "export the network again"
        expected = {"schema", "genotype", "layout", "size", "mean", "std", "classes", "note", "facts"}
        if not isinstance(data, dict) or set(data) != expected or data["schema"] != SCHEMA:
            raise BadInput(where, KEY, "is not the description of a network of this version", again)
        layout = data["layout"]
        known = {*CHOICES, "reductions", "stem", "auxiliary", "search"}
        if not isinstance(layout, dict) or set(layout) != known or layout["stem"] not in STEMS:
            raise BadInput(where, "layout", f"must have exactly {', '.join(sorted(known))}", again)
        for name, (kind, low, high) in CHOICES.items():
            if type(layout[name]) is not kind or not low <= layout[name] <= high:
                raise BadInput(where, f"layout.{name}", f"must be from {low} to {high}", again)
        places = layout["reductions"]
        if not isinstance(places, list) or any(type(p) is not int or not 0 <= p < layout["cells"] for p in places):
            raise BadInput(where, "layout.reductions", "must list cells of the stack", again)
        if any(type(layout[name]) is not bool for name in ("auxiliary", "search")) or len(set(places)) > 6:
            raise BadInput(where, "layout", "is not the layout of a network", again)
        numbers = [*_floats(data, "mean", where), *_floats(data, "std", where)]
        size, classes = data["size"], data["classes"]
        if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or not 1 <= n <= 1024 for n in size):
            raise BadInput(where, "size", "must be height and width, 1 to 1024", again)
        if len(numbers) != 2 * layout["image_channels"] or min(data["std"]) <= 0:
            raise BadInput(where, "mean", "must have a mean and a deviation per channel", again)
        named = isinstance(classes, list) and len(classes) == layout["classes"]
        if not named or any(not isinstance(c, str) or len(c) > 200 for c in classes):
            raise BadInput(where, "classes", f"must be {layout['classes']} names", again)
        if not isinstance(data["note"], str) or not isinstance(data["facts"], dict):
            raise BadInput(where, "note", "must be text", again)
        return Card(
            Genotype.from_json(data["genotype"], where), {**layout, "reductions": tuple(places)}, (size[0], size[1]),
            tuple(data["mean"]), tuple(data["std"]), tuple(classes), data["note"][:2000], data["facts"],
        )  # fmt: skip


def _floats(data: Mapping[str, Any], name: str, where: str) -> list[float]:
    found = data[name]
    sound = isinstance(found, list) and all(isinstance(n, (int, float)) and math.isfinite(n) for n in found)
    if not sound:
        raise BadInput(where, name, "must be a list of numbers", "export the network again")
    return found


class Model(nn.Module):
    """A network with what it needs to be used: `model(images)` gives logits, `model.transform(picture)` an image."""

    def __init__(self, net: nn.Module, card: Card) -> None:
        super().__init__()
        self.net, self.card, self.classes = net, card, card.classes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def transform(self, picture: Image.Image | Tensor) -> Tensor:
        """A picture as the network wants it: (C, H, W) float32, of its size, channels and normalisation.

        The shorter side is brought to the network's, and the centre is cut out; grey and colour are converted.

        Args:
            picture: of Pillow, or uint8 (C, H, W) with one or three channels.
        """
        pixels = _pixels(picture) if isinstance(picture, Image.Image) else picture
        channels = self.card.layout["image_channels"]
        if pixels.shape[0] != channels:
            grey = pixels.float().mean(0, keepdim=True) if pixels.shape[0] == 3 else pixels[:1].float()
            pixels = grey.expand(channels, -1, -1)
        height, width = self.card.size
        scale = max(height / pixels.shape[1], width / pixels.shape[2])
        sides = [max(n, round(m * scale)) for n, m in zip((height, width), pixels.shape[1:], strict=True)]
        x = pixels[None].float()
        if tuple(x.shape[2:]) != tuple(sides):
            x = F.interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False).round().clamp(0, 255)
        top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
        x = x[0, :, top : top + height, left : left + width] / 255
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.card.mean, self.card.std))
        return (x - mean) / std

    @torch.no_grad()
    def predict(self, path: str | Path, most: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of an image file with their probabilities (0 to 1), the likeliest first.

        Raises:
            BadInput: the file is no image, or the network's answer holds NaN.
        """
        image = self.transform(read_image(Path(path))).to(next(self.parameters()).device)
        shares = torch.softmax(self(image[None])[0].double(), 0)
        if not bool(torch.isfinite(shares).all()):
            raise BadInput(str(path), "", "the network's answer is not a number", "are its weights trained?")
        top = shares.topk(min(most, len(self.classes)))
        return [(self.classes[i], p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _pixels(picture: Image.Image) -> Tensor:
    """uint8 (C, H, W), one channel for grey."""
    import numpy as np

    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    made = np.array(picture.convert(mode))
    return torch.from_numpy(made if made.ndim == 3 else made[:, :, None]).permute(2, 0, 1)


def to_bytes(net: nn.Module, card: Card) -> bytes:
    """The file's bytes: the state dict, and the card in the metadata."""
    return pack(net.state_dict(), KEY, card.to_json())


def read(data: bytes, where: str) -> Model:
    """The network in a file's bytes.

    Raises:
        BadInput: the file is damaged, or its tensors are not those of the network it describes.
    """
    return Model(*unpack(data, where, KEY, "network", Card.from_json, lambda c: network_of(c.genotype, **c.layout)))


def card_of(task: Any, config: SearchConfig, net: nn.Module, **more: Any) -> Card:
    """The card of a network that a run trained on the images of `task`."""
    mean, std = task.statistics
    layout = {
        **task.layout(), "reductions": tuple(config.reduction_cells()), "stem": getattr(net, "stem_kind", "cifar"),
        "auxiliary": False, "search": False,
    }  # fmt: skip
    return Card(config.genotype(), layout, task.shape[1:], mean, std, task.classes, **more)


def of_run(run: RunReader) -> tuple[nn.Module, Card]:
    """The network at the last checkpoint of an evaluation, without its auxiliary head.

    Raises:
        BadInput: the run is a search, has no checkpoint, or its data cannot be read any more.
    """
    config, state, file = last_state(run, "is no network to use")
    task = image_task(config, torch.device("cpu"))
    torch.manual_seed(seed(0, "unused weights"))
    net = network(task, config.with_(auxiliary=0.0))
    weights = {name: t for name, t in state.weights.items() if not name.startswith("auxiliary_head.")}
    agree(weights, net.state_dict(), file)
    net.load_state_dict(weights)
    ends = [line for line in run.events()[0] if line["type"] == "trained"]
    accuracy = {"test_accuracy": ends[-1]["test_accuracy"]} if ends and ends[-1]["test_accuracy"] is not None else {}
    facts = {"cell": str(config.options["label"]), "dataset": config.dataset, "epochs": state.epoch, **accuracy}
    return net.eval(), card_of(task, config, net, facts=facts)


def load(path: str | Path) -> Model | LanguageFile:
    """The trained network of a file (`export --format weights`, `import-pt`) or of the folder of an evaluation's run;
    a `LanguageFile` where it was trained on text.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        run = RunReader(place.absolute().parent, place.name)
        text = SearchConfig.from_dict(run.info["config"], f"run {run.name}").of_text
        return language_file.of_run(run) if text else Model(*of_run(run))
    data = io.read_bytes(place, LIMIT)
    text = language_file.KEY in io.check_tensors(data, str(path))[0]
    return language_file.read(data, str(path)) if text else read(data, str(path))


def best_guess(found: Sequence[tuple[str, float]]) -> str:
    """A prediction in words."""
    name, share = found[0]
    others = ", ".join(f"{other} {100 * p:.1f} %" for other, p in found[1:])
    return f"{name} ({100 * share:.1f} %)" + (f"; then {others}" if others else "")


def usable(model: Model | LanguageFile, where: str) -> Model:
    """`model`, unless it is about text, or its answers depend on the rest of the batch.

    Raises:
        BadInput: it is, or they do.
    """
    if isinstance(model, LanguageFile):
        raise BadInput(where, "", "is a language model", "write text with it: generate, or model.write() in Python")
    if model.card.layout["search"]:
        raise BadInput(
            where, "", "holds the weights of a supernet, not of a trained network", "evaluate its cell first"
        )
    return model


def tested_on(model: Model, dataset: str, path: str | None) -> dict[str, float]:
    """{"accuracy", "loss", "count"} and, with more than five classes, "top5", on the test images of a data set.

    The images are normalised as the network's card says, not as the data set would be for a training.

    Raises:
        BadInput: the data set cannot be read, or has another number of classes or channels.
    """
    card = model.card
    if dataset == "folder" and card.layout["stem"] == "imagenet":
        stream = Stream(path or "", seed=0, side=card.size[0], batch=1)
        stream_batches, classes = stream.eval_batches("test", 50), len(stream.classes)
        batches: Any = stream_batches
    else:
        images = load_images(dataset, path=path, resize=card.size[0])
        mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (card.mean, card.std))
        parts = zip(images.test.split(250), images.test_labels.split(250), strict=True)
        batches = (((x.float() / 255 - mean) / std, y) for x, y in parts)
        classes = len(images.classes)
        if images.test.shape[1] != card.layout["image_channels"]:
            what = f"has images of {images.test.shape[1]} channels, the network wants {card.layout['image_channels']}"
            raise BadInput("evaluate", "dataset", f"{dataset} {what}", "choose the data set it was trained on")
    if classes != len(model.classes):
        what = f"{dataset} has {classes} classes, the network names {len(model.classes)}"
        raise BadInput("evaluate", "dataset", what, "choose the data set it was trained on")
    total, loss, right, near = 0, 0.0, 0, 0
    with torch.no_grad():
        for x, y in batches:
            logits = model(x)
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(-1) == y).sum())
            near += int((logits.topk(min(5, classes)).indices == y[:, None]).sum())
            total += len(y)
    found = {"accuracy": right / total, "loss": loss / total, "count": total}
    return found | ({"top5": near / total} if classes > 5 else {})
