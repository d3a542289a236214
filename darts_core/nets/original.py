"""Names of the weights in the released DARTS code and here: a two-way map between the state dicts.

| here                                              | released code                          |
|---------------------------------------------------|----------------------------------------|
| `stem.0.weight`, `stem.1.bias`, `classifier.bias` | the same                               |
| `cells.3.preprocess0.1.weight` (ReLU, conv, norm) | `cells.3.preprocess0.op.1.weight`      |
| `cells.3.preprocess0.conv_1.weight` (reduction)   | the same                               |
| `cells.3.edges.7.candidates.sep_conv_3x3.5.weight`| `cells.3._ops.7._ops.4.op.5.weight`    |
| `cells.3.edges.0.candidates.skip_connect.bn`      | `cells.3._ops.0._ops.3.bn`             |

| `cells.3.nodes.1.0.5.weight` (derived network)    | `cells.3._ops.2.op.5.weight`           |

The second number after `_ops` is the operation's column. A derived network numbers its operations through the cell.
Running statistics of the released supernet have no counterpart here (see `BatchStatistics`); no gradient and no derived
cell depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.nets.skeleton import Place

STACKED = ("sep_conv", "dil_conv")  # operations that the released code wraps in a Sequential called `op`


def to_original(name: str, ops: Sequence[str]) -> str:
    """The released code's name of our supernet's weight `name`; `ops` are the columns of the cell."""
    if found := re.fullmatch(r"(cells\.\d+)\.edges\.(\d+)\.candidates\.(\w+?)\.(.+)", name):
        cell, edge, op, rest = found.groups()
        return f"{cell}._ops.{edge}._ops.{list(ops).index(op)}.{'op.' if op.startswith(STACKED) else ''}{rest}"
    return re.sub(r"(preprocess[01])\.(\d)", r"\1.op.\2", name)


def from_original(name: str, ops: Sequence[str]) -> str:
    """Our supernet's name of the released code's weight `name`.

    Raises:
        BadInput: the name has a column that the cell does not have.
    """
    if found := re.fullmatch(r"(cells\.\d+)\._ops\.(\d+)\._ops\.(\d+)\.(?:op\.)?(.+)", name):
        cell, edge, column, rest = found.groups()
        if int(column) >= len(ops):
            what = f"has operation {column}, the cell has {len(ops)}"
            raise BadInput("checkpoint", name, what, "use the space it was made with")
        return f"{cell}.edges.{edge}.candidates.{ops[int(column)]}.{rest}"
    return re.sub(r"(preprocess[01])\.op\.", r"\1.", name)


def weights_from_original(state: Mapping[str, Tensor], ops: Sequence[str]) -> dict[str, Tensor]:
    """The released supernet's state dict under our names, without its running statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {from_original(name, ops): t for name, t in state.items() if not name.endswith(statistics)}


def derived_to_original(name: str, genotype: Genotype, stack: Sequence[Place]) -> str:
    """The released code's name of the derived network's weight or buffer `name`; `stack` is `Network.places`."""
    if found := re.fullmatch(r"cells\.(\d+)\.nodes\.(\d+)\.(\d+)\.(.+)", name):
        cell, node, place, rest = int(found[1]), int(found[2]), int(found[3]), found[4]
        nodes = genotype.cells[stack[cell].kind].nodes
        number = sum(len(genes) for genes in nodes[:node]) + place
        op = nodes[node][place].op
        return f"cells.{cell}._ops.{number}.{'op.' if op.startswith(STACKED) else ''}{rest}"
    return re.sub(r"(preprocess[01])\.(\d)", r"\1.op.\2", name)
