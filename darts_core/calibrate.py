"""What a search will take on this machine: real steps of the real network, timed for a second or two.

Images are random ones of the data set's size, so nothing is downloaded; a data set of one's own is read. A step too
long for that second is timed on fewer images and scaled by their number.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from darts_core import cost, io
from darts_core.config import SearchConfig, catalogue, spare_cores
from darts_core.data import Images
from darts_core.errors import BadInput
from darts_core.estimate import Measured
from darts_core.genotype import random_genotype
from darts_core.nets.kernels import build
from darts_core.search.bilevel import Search
from darts_core.search.host import Host
from darts_core.strategies import STRATEGIES
from darts_core.tasks import VALIDATE_AT_MOST, ImageTask, image_task

SECONDS = 1.0  # of timed steps
FEW = 8  # images of the first, careful step
TOO_LONG = 0.5  # seconds from which a whole step is scaled from fewer images instead


def calibrate(config: SearchConfig) -> Measured:
    """Time `config` here.

    Raises:
        BadInput: the method proposes whole cells (its cost is that of its trainings), or the data cannot be read.
    """
    if STRATEGIES[config.strategy].baseline:
        fix = "its time is that of the cells it trains"
        raise BadInput("cost", "strategy", f"{config.strategy} has no steps that could be timed", fix)
    if catalogue()["datasets"].get(config.dataset, {}).get("kind") == "text":
        raise BadInput("cost", "dataset", f"{config.dataset} is text", "only searches on images are timed beforehand")
    device = torch.device("cuda" if config.device in ("auto", "cuda") and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(config.threads or spare_cores())
    resident = _memory(device)
    config = config.with_(backend=_backend(config, device), pace=0.0)
    image = _image(config, device)
    step, share = _step_seconds(config, image, device)
    memory = resident + round(max(0, _memory(device) - resident) / share)
    task = _task(config, image, device, share)
    search = Search(STRATEGIES[config.strategy].factory, task, config, Host())
    entries = sum(int(legal.sum()) for legal in search.alphas.legal.values())
    hessian = 0.0
    if config.hessian_every:
        guess = entries * step * (config.hessian_batch or config.architecture_batch) / config.architecture_batch
        hessian = _seconds(search.hessian) if guess < 2 * SECONDS else guess
    few = min(250, image.train)
    x = torch.zeros(few, image.channels, image.height, image.width, device=device)
    with torch.no_grad():
        seen = _seconds(lambda: search.net(x, search.read(), None)) * min(VALIDATE_AT_MOST, image.train) / few
    return Measured(
        config=config.to_dict(),
        image=tuple(image),
        step=step,
        measure=seen,
        hessian=hessian,
        retrain=_training_seconds(config, task) if config.retrain_epochs else 0.0,
        start=time.process_time(),
        memory=memory,
        resident=resident,
        available=_available(device),
        device=device.type,
        backend=config.backend,
    )


def _backend(config: SearchConfig, device: torch.device) -> str:
    """The form that a search would take now; building the compiled one is the search's own business."""
    if config.backend in ("fast", "reference") or device.type != "cpu":
        return "reference" if config.backend == "reference" else "fast"
    return "compiled" if build.compiler() is not None and build.ready() is not None else "fast"


def _image(config: SearchConfig, device: torch.device) -> cost.Image:
    known = cost.image_of(config.to_dict())
    if known is not None:
        return known
    images = image_task(config, device).images
    _, channels, height, width = images.train.shape
    return cost.Image(channels, height, width, len(images.classes), len(images.train), len(images.test))


def _task(config: SearchConfig, image: cost.Image, device: torch.device, share: float) -> ImageTask:
    """A task on random images; of each batch only `share` (0 to 1)."""
    batch, arch = (max(1, round(size * share)) for size in (config.batch, config.architecture_batch))
    count = 2 + max(round(batch / config.train_portion), round(arch / (1 - config.train_portion)), FEW)
    pixels = torch.randint(0, 256, (count, image.channels, image.height, image.width), dtype=torch.uint8)
    labels = torch.arange(count) % image.classes
    names = tuple(str(number) for number in range(image.classes))
    grey = (0.5,) * image.channels
    made = Images("random pixels", pixels, labels, pixels[:FEW], labels[:FEW], names, grey, grey)
    return ImageTask(config.with_(batch=batch, arch_batch=arch), made, device)


def _step_seconds(config: SearchConfig, image: cost.Image, device: torch.device) -> tuple[float, float]:
    """Seconds of a whole step, and the share of its images that was timed."""
    share = min(1.0, FEW / config.batch)
    while True:
        search = Search(STRATEGIES[config.strategy].factory, _task(config, image, device, share), config, Host())
        took = _seconds(lambda search=search: _one(search))
        larger = min(1.0, share * 8)
        if share == 1.0 or took * larger / share > TOO_LONG:
            break
        share = larger
    times, began = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < SECONDS and len(times) < 200):
        before = time.perf_counter()
        _one(search)
        times.append(time.perf_counter() - before)
    return median(times) / share, share


def _one(search: Search) -> None:
    search.index = 0  # the same batch again: there are only so many random images
    search.one_step()


def _training_seconds(config: SearchConfig, task: ImageTask) -> float:
    """Seconds of a step of a derived cell's training on a whole batch."""
    net = task.network(random_genotype(task.space, random.Random(0)))
    images, labels = task.batch("weights", 0, 0)

    def step() -> None:
        loss = F.cross_entropy(net(images), labels)
        torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)

    step()
    return min(_seconds(step) for _ in range(3)) * config.batch / len(labels)


def _seconds(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _memory(device: torch.device) -> int:
    """Bytes that this process has taken at most, on the device that computes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":  # has no such count: then nothing is said of memory
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _available(device: torch.device) -> int:
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else io.memory_available()
