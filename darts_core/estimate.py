"""How long a search will take and what memory it needs: from steps that were timed, scaled to the settings asked for.

`calibrate.py` does the timing in a process of its own; nothing here needs torch, so that a page can scale while
somebody moves a slider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from darts_core.config import SearchConfig
from darts_core.cost import Image, costs_of, image_of
from darts_core.errors import BadInput

# Settings of which time and memory are not a simple function: another value needs another calibration.
MEASURED_WITH = (
    "dataset", "path", "resize", "space", "own_space", "nodes", "reductions", "stem_stride", "strategy", "device",
    "backend", "threads", "hessian_batch",
)  # fmt: skip
FULL = 0.8  # share of the free memory from which a search is said not to fit


@dataclass(frozen=True)
class Measured:
    """What one calibration found. Seconds and bytes; `config` and `image` are what it was made with."""

    config: Mapping[str, Any]
    image: tuple[int, ...]
    step: float  # one architecture step and one weight step
    measure: float  # the validation at the end of an epoch
    hessian: float  # one eigenvalue; 0 where none is asked for
    retrain: float  # one step of a derived cell's training; 0 where none is asked for
    start: float  # until the first step
    memory: int  # at most, with whole batches
    resident: int  # of it, what a process takes that has loaded torch and computes nothing
    available: int
    device: str
    backend: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Measured:
        """BadInput for anything but what `to_json` gave."""
        names = {f.name for f in fields(Measured)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise BadInput("cost", "", "is not what a calibration says", "calibrate again")
        return Measured(**{**data, "image": tuple(data["image"])})


@dataclass(frozen=True)
class Estimate:
    """Of a whole search. Seconds and bytes; `scaled`: from a calibration with other settings."""

    step: float
    epoch: float
    total: float
    memory: float
    available: float
    scaled: bool

    @property
    def fits(self) -> bool:
        return self.available <= 0 or self.memory <= FULL * self.available


def key_of(config: SearchConfig) -> tuple[Any, ...]:
    """What a calibration is good for: equal keys can be scaled into one another."""
    about = config.to_dict()
    return (*(about[name] for name in MEASURED_WITH), *sorted(config.options.items()), bool(config.hessian_every))


def estimate(config: SearchConfig, measured: Measured) -> Estimate | None:
    """The search of `config`, by its own calibration or by one of the same key; None where that cannot be scaled.

    Steps are in proportion to the images of a step times the multiply-adds of the supernet, so is the memory beyond
    what torch takes; the evaluation likewise, by the derived network's.
    """
    then = SearchConfig.from_dict(measured.config)
    image = Image(*measured.image)
    now = image_of(config.to_dict()) or image
    ratios = [_work(config, now, form) / _work(then, image, form) if _work(then, image, form) else None
              for form in (True, False)]  # fmt: skip
    same = _sizes(config) == _sizes(then)
    if not same and None in ratios:
        return None
    supernet, network = (1.0, 1.0) if same else (ratios[0] or 1.0, ratios[1] or 1.0)
    images = (config.batch + config.architecture_batch) / (then.batch + then.architecture_batch)
    step = measured.step * supernet * images
    portion = now.train * config.train_portion
    steps = max(1, -(-int(portion) // config.batch))
    shown = max(step, 1 / config.pace) if config.pace else step
    every = config.hessian_every
    eigenvalues = -(-config.epochs // every) / config.epochs if every else 0.0
    epoch = steps * shown + measured.measure * supernet + eigenvalues * measured.hessian * supernet
    trainings = max(1, config.random_cells) + config.random_cells
    batches = max(1, -(-now.train // config.batch))
    after = config.retrain_epochs * trainings * batches * measured.retrain * network * config.batch / then.batch
    memory = measured.resident + (measured.memory - measured.resident) * supernet * images
    total = measured.start + config.epochs * epoch + after
    return Estimate(step, epoch, total, memory, measured.available, not same)


def _sizes(config: SearchConfig) -> tuple[Any, ...]:
    """Settings that scale one step."""
    return config.channels, config.cells, config.stem_multiplier, config.batch, config.architecture_batch


def _work(config: SearchConfig, image: Image, search: bool) -> float:
    """Multiply-adds of one image through the supernet, or through a network with the mean of all operations."""
    space = config.search_space()
    costs = costs_of(space, config, image, search)
    return costs.whole().macs if costs else 0.0
