"""A network with its weights as files: one Python file that needs torch alone, safetensors, ONNX, torch.export.

`WRITERS[format](Taken) -> bytes`. Which network: the one that an evaluation trained; of a search, the derived cell with
the weights that it has in the supernet; of a genotype alone, a network of the given layout with fresh weights.
"""

from __future__ import annotations

import ast
import io as memory
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from darts_core import genotype as genotypes
from darts_core import ops, stack
from darts_core import space as spaces
from darts_core.config import EVALUATE, SearchConfig
from darts_core.errors import BadInput
from darts_core.evaluation import evaluation_config
from darts_core.genotype import RECURRENT, Genotype
from darts_core.model_file import Card, of_run, to_bytes
from darts_core.nets import bench201, chain, fixed, skeleton
from darts_core.nets.bench201 import BenchNetwork
from darts_core.nets.chain import ChainNetwork
from darts_core.nets.derived import DerivedNetwork, form_of, network_of
from darts_core.nets.fixed import Network
from darts_core.runs import RunReader
from darts_core.search.state import from_bytes
from darts_core.seeds import seed
from darts_core.space import SearchSpace
from darts_core.tasks import image_task
from darts_core.weights_file import agree


class Taken(NamedTuple):
    """A network to write, and what it is."""

    net: nn.Module
    card: Card


def taken(genotype: Genotype, title: str, run: RunReader | None) -> Taken:
    """The network of a run, or a fresh one of a genotype in the form of the `quick` preset.

    Raises:
        BadInput: the run has no checkpoint, or its network has another form.
    """
    if run is None:
        return fresh(genotype, title)
    if run.info["config"].get("strategy") == EVALUATE:
        return Taken(*of_run(run))
    return inherited(genotype, run)


def fresh(genotype: Genotype, title: str) -> Taken:
    """Untrained, for images of 3x32x32 and ten classes."""
    config = evaluation_config("quick", genotype, title, {"dataset": "cifar10"})
    options = {
        "image_channels": 3, "classes": 10, "channels": config.channels, "cells": config.cells,
        "reductions": config.reduction_cells(), "stem_multiplier": config.stem_multiplier,
        "stem_stride": config.stem_stride, "stem": "cifar", "auxiliary": False, "search": False,
    }  # fmt: skip
    torch.manual_seed(seed(0, "fresh weights"))
    net = network_of(genotype, **options).eval()
    half, names = (0.5,) * 3, tuple(f"class {number}" for number in range(10))
    return Taken(net, Card(genotype, options, (32, 32), half, half, names, "untrained", {"cell": title}))


def inherited(genotype: Genotype, run: RunReader) -> Taken:
    """The derived cell with the supernet's weights: what is left of the search when all else is cut away.

    It computes what the supernet does under the cell's one-hot mix, batch statistics included, so its answer to an
    image depends on the others of the batch; it is for looking at, not for use.

    Raises:
        BadInput: the search has no checkpoint, or its supernet has another form (partial channels).
    """
    config = SearchConfig.from_dict(run.info["config"], f"run {run.name}")
    space, saved = config.search_space(), run.checkpoints()
    if not saved:
        raise BadInput(f"run {run.name}", "checkpoints", "there is none", "let it run for an epoch")
    state = from_bytes(run.read_checkpoint(saved[-1].file), saved[-1].file)
    task = image_task(config, torch.device("cpu"))
    options = {**task.layout(), "stem": "cifar", "auxiliary": False, "search": True}
    net = network_of(genotype, **options)
    weights = {name: state.weights.get(_in_supernet(name, net, space)) for name in net.state_dict()}
    missing = next((name for name, t in weights.items() if t is None), None)
    if missing is not None:
        raise BadInput(f"run {run.name}", missing, "is not in its supernet", "train the cell: evaluate --run")
    found = {name: t for name, t in weights.items() if t is not None}
    agree(found, net.state_dict(), saved[-1].file)
    net.load_state_dict(found)
    mean, std = task.statistics
    note = "weights of the supernet, not trained again; its answer to an image depends on the others of the batch"
    facts = {"cell": f"cell of {run.name}", "dataset": config.dataset}
    return Taken(net.eval(), Card(genotype, options, task.shape[1:], mean, std, task.classes, note, facts))


def _in_supernet(name: str, net: DerivedNetwork, space: SearchSpace) -> str:
    """The supernet's name of the derived network's weight `name`."""
    parts = name.split(".")
    if parts[0] != "cells":
        return name
    if isinstance(net, ChainNetwork):
        genes = net.genotype.cells[chain.KIND]
        block = chain.kept(genes)[int(parts[1])]
        return ".".join(["cells", str(block), "candidates", genes.nodes[block][0].op, *parts[2:]])
    if parts[2] != "nodes":
        return name
    cell, node, place = int(parts[1]), int(parts[3]), int(parts[4])
    kind = net.places[cell].kind if isinstance(net, Network) else bench201.KIND
    gene, spec = net.genotype.cells[kind].nodes[node][place], space.cells[kind]
    edge = spec.edges.index((gene.source, spec.inputs + node))
    return ".".join(["cells", parts[1], "edges", str(edge), "candidates", gene.op, *parts[5:]])


# ---- the formats


def weights(what: Taken) -> bytes:
    """safetensors, with the network's description in the metadata: `darts_core.load` reads it back."""
    return to_bytes(what.net, what.card)


def onnx(what: Taken) -> bytes:
    """ONNX with a free batch size: input "images" (N, C, H, W), normalised; output "logits".

    Raises:
        BadInput: the package onnx is not installed, or the network uses batch statistics.
    """
    _alone(what, "onnx")
    return to_onnx(what.net.eval(), (_example(what.card),), ["images"], ["logits"])


def to_onnx(net: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str]) -> bytes:
    """ONNX of a module whose inputs and outputs, as named, all have the batch as their first dimension.

    Raises:
        BadInput: the package onnx is not installed.
    """
    out: Any = memory.BytesIO()
    free = {name: {0: "batch"} for name in (*inputs, *outputs)}
    names: dict[str, Any] = {"input_names": inputs, "output_names": outputs, "dynamic_axes": free}
    with warnings.catch_warnings():
        # The older of torch's two exporters: the newer one needs onnxscript besides, and says so in this warning.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(net, example, out, dynamo=False, **names)
        except torch.onnx.OnnxExporterError as error:
            fix = "pip install onnx, or darts-workbench[onnx]"
            raise BadInput("export", "onnx", f"torch cannot write it ({str(error)[:120]})", fix) from error
    return out.getvalue()


def pt2(what: Taken) -> bytes:
    """A program of `torch.export` with a free batch size; `torch.export.load` reads it."""
    _alone(what, "pt2")
    return to_pt2(what.net.eval(), (_example(what.card).repeat(2, 1, 1, 1),))


def to_pt2(net: nn.Module, example: tuple[torch.Tensor, ...]) -> bytes:
    """A program of torch.export whose inputs all have the batch, of two in the example, as their first dimension."""
    out = memory.BytesIO()
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    program = torch.export.export(net, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own about its own file format
        torch.export.save(program, out)
    return out.getvalue()


def _alone(what: Taken, format: str) -> None:
    """Refuse a network whose answer depends on the rest of the batch."""
    if what.card.layout["search"]:
        fix = "train its cell first (evaluate --run), or export py or weights"
        raise BadInput("export", format, "a supernet's weights go with batch statistics, which it cannot hold", fix)


def _example(card: Card) -> torch.Tensor:
    return torch.zeros(1, card.layout["image_channels"], *card.size)


# ---- one Python file

IMPORTS = """from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
Parts = tuple[tuple[ModuleType, tuple[str, ...]], ...]
GENES: Parts = ((genotypes, ("INPUTS", "Gene", "CellGenes")),)
OPERATIONS = (
    "BatchStatistics", "batch_statistics", "norm", "Zero", "ReLUConvNorm", "SeparableConv", "DilatedConv",
    "_depthwise_separable", "_depthwise", "SharpSeparableConv", "CHOKE", "FLOOD", "_sharp", "FactorizedReduce",
    "reduction_halves", "Identity", "FactorizedConv", "Noise", "_pool", "drop_path",
)  # fmt: skip
PARTS: Mapping[type[DerivedNetwork], Parts] = {
    Network: (
        *GENES,
        (ops, OPERATIONS),
        (stack, ("Place", "places")),
        (skeleton, ("stem", "imagenet_stem", "preprocess")),
        (fixed, ("STEMS", "FixedCell", "Auxiliary", "TwoByTwo", "Network")),
    ),
    BenchNetwork: (
        *GENES,
        (ops, (*OPERATIONS, "ResidualReduction")),
        (skeleton, ("stem",)),
        (bench201, ("KIND", "widths", "BenchCell", "_blocks", "BenchNetwork")),
    ),
    ChainNetwork: (
        *GENES,
        (ops, ("BatchStatistics", "batch_statistics", "norm", "Identity", "drop_path")),
        (stack, ("chain_places",)),
        (skeleton, ("stem",)),
        (spaces, ("MBCONV_OPS",)),
        (chain, ("KIND", "HEAD", "InvertedResidual", "block", "_Ends", "ChainNetwork")),
    ),
}
LOAD = '''def load(path: str) -> Network:
    """The network with the weights of a safetensors file, ready to use. The file is data: nothing in it is run."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, numbers = json.loads(file.read(size)), bytearray(file.read())
    kinds = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
    state = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            flat = torch.frombuffer(numbers[begin:end] or bytearray(8), dtype=kinds[about["dtype"]])
            state[name] = flat[: torch.Size(about["shape"]).numel()].reshape(about["shape"]).clone()
    net = network()
    net.load_state_dict(state)
    return net.eval()
'''
ENDING = '''
def network() -> Network:
    """The network with fresh weights."""
    genotype = Genotype({kind: CellGenes(tuple(tuple(Gene(*g) for g in node) for node in nodes), tuple(output), inputs)
                         for kind, (nodes, output, inputs) in CELLS.items()})
    return Network(genotype, **LAYOUT)


@LOAD@


def prepare(pixels: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) of the size SIZE, normalised as in training."""
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


if __name__ == "__main__":
    net = load(sys.argv[1]) if len(sys.argv) > 1 else network().eval()
    images = torch.zeros(2, LAYOUT["image_channels"], *SIZE)
    count = sum(p.numel() for p in net.parameters())
    print(f"{count:,} parameters; {tuple(images.shape)} -> {tuple(net(images).shape)}")
'''.replace("@LOAD@\n", LOAD)


def model_py(what: Taken) -> bytes:
    """The network as one Python file that imports torch alone: the source of this package's own parts, put together.

    Its state dict has the same names, so `load("FILE.safetensors")` in it reads what `--format weights` wrote.

    Raises:
        BadInput: the cell has an operation that the file cannot hold.
    """
    card = what.card
    form = form_of(card.genotype)
    used = {g.op for cell in card.genotype.cells.values() for node in cell.nodes for g in node}
    cells = {
        kind: ([[list(g) for g in node] for node in cell.nodes], list(cell.output), cell.inputs)
        for kind, cell in card.genotype.cells.items()
    }
    unused = ("auxiliary",) if form is Network else ("auxiliary", "stem")
    layout = {key: value for key, value in card.layout.items() if key not in unused}
    facts = [
        f"CELLS = {cells!r}  # kind -> (nodes of (operation, source state), states of the output, inputs)",
        f"LAYOUT = {layout!r}",
        f"SIZE = {tuple(card.size)!r}  # height and width of the images it was trained on",
        f"MEAN, STD = {tuple(card.mean)!r}, {tuple(card.std)!r}  # per channel, of values from 0 to 1",
        f"CLASSES = {list(card.classes)!r}",
    ]
    body = [f'"""{_said(card)}"""\n', IMPORTS, "\n".join(facts)]
    body.append('class BadInput(ValueError):\n    """Where, which field, what is wrong, and how to mend it."""')
    body.append('class Genotype(NamedTuple):\n    """A kind of cell each."""\n\n    cells: dict[str, CellGenes]')
    for module, names in PARTS[form]:
        source = source_of(module)
        body += [source[name] for name in names]
        if module is ops and form is not ChainNetwork:
            body.append(_operations(used))
    ending = ENDING.replace("Network", form.__name__)
    text = "\n\n\n".join(part.strip("\n") for part in body) + "\n\n" + ending
    text = text.replace("skeleton.stem(", "cifar_stem(").replace(
        "def stem(", "def cifar_stem("
    )  # `stem` is an argument
    for prefix in ("ops.", "skeleton."):
        text = text.replace(prefix, "")
    for call, wrong in (('"network", "stem", stem, STEMS', "stem"), ('"", "operation", op, MBCONV_OPS', "op")):
        text = text.replace(f"raise unknown({call})", f'raise ValueError(f"unknown {wrong}: {{{wrong}!r}}")')
    return text.encode()


def _operations(used: set[str]) -> str:
    """The table of the operations that this cell has, and the function that builds one."""
    table = source_of(ops)["OPS"]
    held = ast.parse(table).body[0]
    value = held.value if isinstance(held, ast.AnnAssign) else None
    assert isinstance(value, ast.Dict), "OPS is a literal table"
    lines = {
        ast.literal_eval(k): ast.get_source_segment(table, v)
        for k, v in zip(value.keys, value.values, strict=True)
        if k
    }
    entries = [f'    "{op}": {lines[op]},' for op in lines if op in used]
    if missing := used - set(lines):
        raise BadInput("export", "py", f"cannot hold the operation {sorted(missing)[0]}", "export weights instead")
    build = (
        "def build(op: str, channels: int, stride: int, search: bool) -> nn.Module:\n"
        "    return OPS[op](channels, stride, search)"
    )
    return "OPS = {\n" + "\n".join(entries) + "\n}\n\n\n" + build


def source_of(module: ModuleType) -> dict[str, str]:
    """Name -> source text of everything that a module of this package defines at its top, decorators included."""
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        names: list[str] = []
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        for name in names:
            found[name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def _said(card: Card) -> str:
    """The docstring of the file: plain text on few lines, whatever titles hold."""
    what = f"({plain_words(card.facts.get('cell', 'a cell'))}) for images of {card.size[0]}x{card.size[1]} pixels"
    return (
        f"A network {what}. Needs torch alone.\n\n"
        '    net = load("FILE.safetensors")            # weights written by: export --format weights\n'
        "    logits = net(prepare(images))             # uint8 (N, C, H, W) -> (N, classes)\n"
    )


def plain_words(title: object) -> str:
    """At most 80 characters of a title that no quotation mark or backslash in it can end."""
    return json.dumps(str(title), ensure_ascii=True)[1:-1].replace("\\", " ").replace('"', "'")[:80]


WRITERS: Mapping[str, Callable[[Taken], bytes]] = {"py": model_py, "weights": weights, "onnx": onnx, "pt2": pt2}


def write(format: str, genotype: Genotype, title: str, run: RunReader | None) -> bytes:
    """The file's bytes, for formats made of a network.

    Raises:
        BadInput: there is no such network, or the format cannot hold it.
    """
    if RECURRENT in genotype.cells:
        from darts_core import language_export  # it is built on what is above

        return language_export.write(format, genotype, title, run)
    return WRITERS[format](taken(genotype, title, run))
