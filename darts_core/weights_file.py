"""A safetensors file of weights with a card in its metadata that says which network they are of.

What the files of image networks (`model_file`) and of language models (`language_file`) share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from darts_core import io
from darts_core.config import EVALUATE, SearchConfig
from darts_core.errors import BadInput
from darts_core.runs import RunReader
from darts_core.search import state
from darts_core.search.state import State, from_bytes

Card = TypeVar("Card")
Net = TypeVar("Net", bound=nn.Module)


def pack(tensors: Mapping[str, Tensor], key: str, card: Mapping[str, Any]) -> bytes:
    """The file's bytes: a state dict, and the card under `key` of the metadata."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return save_tensors(plain, metadata={key: io.dumps(dict(card), "model")})


def unpack(
    data: bytes, where: str, key: str, kind: str, read_card: Callable[[Any, str], Card], build: Callable[[Card], Net]
) -> tuple[Net, Card]:
    """The network in a file's bytes with its weights, and its card.

    Args:
        kind: what the file holds, for sentences ("network").
        read_card: the card from its JSON data and the file's name; it bounds every size.
        build: the network that a card describes.

    Raises:
        BadInput: the file is damaged, or its tensors are not those of the network it describes.
    """
    metadata, _ = io.check_tensors(data, where)
    if key not in metadata:
        fix = "give a file from `export --format weights`, or one that import-pt made"
        raise BadInput(where, "metadata", f"does not say which {kind} these weights belong to", fix)
    card = read_card(io.loads(metadata[key].encode(), where, io.HEADER_LIMIT), where)
    with torch.device("meta"):  # nothing is reserved before the shapes are known to agree
        net = build(card)
    tensors = load_tensors(data)
    agree(tensors, net.state_dict(), where)
    net.load_state_dict(tensors, assign=True)
    return net, card


def agree(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Exact names, shapes and types, finite numbers; or BadInput that names the first difference."""
    state.agree(tensors, expected, where, "network", "these weights belong to another network")
    for name, found in tensors.items():
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise BadInput(where, name, "holds a number that is not finite", "take another copy of the file")


def last_state(run: RunReader, why: str) -> tuple[SearchConfig, State, str]:
    """Settings of a training, its state at the last checkpoint, and that file's name. `why`: why no search will do.

    Raises:
        BadInput: the run is a search, or has no checkpoint.
    """
    config = SearchConfig.from_dict(run.info["config"], f"run {run.name}")
    if config.strategy != EVALUATE:
        fix = f"train its cell: python -m darts_core evaluate --run {run.name}"
        raise BadInput(f"run {run.name}", "", f"is a search: its supernet {why}", fix)
    saved = run.checkpoints()
    if not saved:
        raise BadInput(f"run {run.name}", "checkpoints", "there is none", "let it run for an epoch")
    file = saved[-1].file
    return config, from_bytes(run.read_checkpoint(file), file), file
