"""Everything a search needs to go on, and its one file form: safetensors with the JSON part in the metadata.

No pickle, and no clock: equal searches give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.numpy import save as save_arrays  # of hundreds of small tensors in a third of the time of torch's
from safetensors.torch import load as load_tensors
from torch import Tensor

from darts_core import io
from darts_core.errors import BadInput
from darts_core.mix import Alphas
from darts_core.optimise import MEAN

SCHEMA = 1


@dataclass
class State:
    """A search between two steps. `index` counts finished steps of `epoch`, `step` those of the whole search."""

    step: int
    epoch: int
    index: int
    stage: int
    settings: dict[str, Any]  # in force now: steering changes them
    weights: dict[str, Tensor]
    alphas: Alphas
    w_optimiser: dict[str, Tensor]  # "momentum.<weight>"; averaged SGD: "mean.<weight>" and their count
    a_optimiser: dict[str, Tensor]  # "first.<alpha>", "second.<alpha>"
    a_steps: int  # architecture steps made: Adam's count
    history: list[dict[str, Any]] = field(default_factory=list)  # per finished epoch: metrics and probes
    sums: dict[str, float] = field(default_factory=dict)  # of the unfinished epoch's metrics
    built: dict[str, Tensor] = field(default_factory=dict)  # kind -> (edges, ops) bool: what the net of this stage has
    carry: dict[str, Tensor] = field(default_factory=dict)  # split -> hidden state, where there is one

    @property
    def judged(self) -> Mapping[str, Tensor]:
        """The weights by which the network is judged: the averaged ones, once there are some (averaged SGD)."""
        return {n.removeprefix(MEAN): t for n, t in self.w_optimiser.items() if n.startswith(MEAN)} or self.weights

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under the names they have in the file, without copies."""
        return {
            **{f"weights.{name}": t for name, t in self.weights.items()},
            **dict(zip(self.alphas.names(), self.alphas.tensors(), strict=True)),
            **{f"legal.{kind}": t for kind, t in self.alphas.legal.items()},
            **{f"w.{name}": t for name, t in self.w_optimiser.items()},
            **{f"a.{name}": t for name, t in self.a_optimiser.items()},
            **{f"built.{kind}": t for kind, t in self.built.items()},
            **{f"carry.{split}": t for split, t in self.carry.items()},
        }

    def check(self, expected: Mapping[str, Tensor], where: str = "checkpoint") -> None:
        """Names, shapes and types must agree exactly with those that the search would save.

        Raises:
            BadInput: names the first difference.
        """
        agree(self.tensors(), expected, where)

    def check_alphas(self, expected: Alphas, where: str = "checkpoint") -> None:
        """As `check`, of the alphas alone: before a net is built for what they allow."""
        layout = lambda alphas: {  # noqa: E731
            **dict(zip(alphas.names(), alphas.tensors(), strict=True)),
            **{f"legal.{kind}": t for kind, t in alphas.legal.items()},
        }
        agree(layout(self.alphas), layout(expected), where)

    def to_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            BadInput: an alpha is not finite (a cell derived from it would look plausible).
        """
        for name, alpha in zip(self.alphas.names(), self.alphas.tensors(), strict=True):
            if not bool(torch.isfinite(alpha).all()):
                raise BadInput(
                    f"checkpoint of step {self.step}",
                    name,
                    "holds a value that is not finite",
                    "resume from an earlier checkpoint",
                )
        arrays = {name: t.detach().cpu().contiguous().numpy() for name, t in self.tensors().items()}
        about = {
            "schema": SCHEMA,
            "step": self.step,
            "epoch": self.epoch,
            "index": self.index,
            "stage": self.stage,
            "a_steps": self.a_steps,
            "settings": self.settings,
            "history": self.history,
            "sums": self.sums,
            "kinds": list(self.alphas.ops),
            "edges": list(self.alphas.edges),
        }
        return save_arrays(arrays, metadata={"state": io.dumps(about, where="checkpoint")})


def from_bytes(data: bytes, where: str) -> State:
    """Read a checkpoint.

    Raises:
        BadInput: the file is damaged.
    """
    metadata, _ = io.check_tensors(data, where)
    about = io.loads(metadata.get("state", "").encode(), where, io.HEADER_LIMIT)
    needed = {"schema", "step", "epoch", "index", "stage", "a_steps", "settings", "history", "sums", "kinds", "edges"}
    if not isinstance(about, dict) or set(about) != needed or about["schema"] != SCHEMA:
        raise BadInput(
            where, "metadata", "is not the state of a search of this version", "use the checkpoint before it"
        )
    tensors = load_tensors(data)
    try:
        alphas = Alphas(
            {kind: tensors[f"alpha.{kind}"] for kind in about["kinds"]},
            {kind: tensors[f"legal.{kind}"] for kind in about["kinds"]},
            {kind: tensors[f"edge.{kind}"] for kind in about["edges"]},
        )
    except KeyError as missing:
        raise BadInput(where, "tensors", f"has no {missing}", "use the checkpoint before it") from missing
    for name, alpha in zip(alphas.names(), alphas.tensors(), strict=True):
        if not bool(torch.isfinite(alpha).all()):
            raise BadInput(where, name, "holds a value that is not finite", "use an earlier checkpoint")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in about["sums"].values()):
        raise BadInput(where, "sums", "holds something that is not a number", "use the checkpoint before it")
    part = lambda prefix: {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}  # noqa: E731
    return State(
        about["step"], about["epoch"], about["index"], about["stage"], about["settings"], part("weights."), alphas,
        part("w."), part("a."), about["a_steps"], about["history"], about["sums"], part("built."),
        part("carry."),
    )  # fmt: skip


def agree(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    where: str,
    whole: str = "search",
    fix: str = "this checkpoint belongs to another search: branch with --weights fresh, or use its own settings",
) -> None:
    """Exact names, shapes and types, or a sentence that names the first difference. `whole`: what they are parts of."""
    for name in sorted(set(expected) ^ set(tensors)):
        raise BadInput(where, name, "is missing" if name in expected else f"is not part of this {whole}", fix)
    for name, t in expected.items():
        found = tensors[name]
        if found.shape != t.shape or found.dtype != t.dtype:
            raise BadInput(
                where, name, f"is {tuple(found.shape)} {found.dtype}, needed {tuple(t.shape)} {t.dtype}", fix
            )
