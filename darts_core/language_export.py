"""A recurrent model as files: one Python file that needs torch alone, safetensors, ONNX, torch.export.

The counterpart of `network_files.py`. ONNX and torch.export hold one step of the recurrence, for any number of columns:
tokens (B,) and the state before them (B, n) -> logits (B, V) and the state behind. Who uses them loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from darts_core import genotype as genotypes
from darts_core.config import EVALUATE, SearchConfig
from darts_core.data.text import load_text
from darts_core.errors import BadInput
from darts_core.evaluation import evaluation_config
from darts_core.genotype import RECURRENT, Genotype
from darts_core.language import language_task
from darts_core.language_file import LanguageCard, LanguageFile, of_run, to_bytes
from darts_core.nets import decoder, recurrent
from darts_core.network_files import LOAD, plain_words, source_of, to_onnx, to_pt2
from darts_core.runs import RunReader
from darts_core.seeds import seed

TRAINED = ("weights", "onnx", "pt2")  # formats that are worth nothing without trained weights


def taken(genotype: Genotype, title: str, run: RunReader | None) -> LanguageFile:
    """The model that a run trained; else one with fresh weights: of a search in its size, of a genotype alone in that
    of the `text` preset.

    Raises:
        BadInput: the run has no checkpoint, or its text cannot be read any more.
    """
    if run is not None and run.info["config"].get("strategy") == EVALUATE:
        return of_run(run)
    if run is None:
        config = evaluation_config("text", genotype, title, {})
        text = load_text(config.dataset)
    else:
        config = SearchConfig.from_dict(run.info["config"], f"run {run.name}")
        text = language_task(config, torch.device("cpu")).text
    card = LanguageCard(
        genotype, len(text.vocabulary), config.units, config.state_clip, text.level, text.vocabulary, title,
        "untrained", {"dataset": config.dataset},
    )  # fmt: skip
    torch.manual_seed(seed(0, "fresh weights"))
    return LanguageFile(card.built(), card)


# ---- the formats


def weights(what: LanguageFile) -> bytes:
    """safetensors, with the model's description in the metadata: `darts_core.load` reads it back."""
    return to_bytes(what.net, what.card)


class OneStep(nn.Module):
    """One token of every column: (B,) int64 and the state (B, n) -> logits (B, V) and the state behind."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        said, after = self.net(tokens[None], carry)
        return said.logits[0], after


def _example(what: LanguageFile) -> tuple[Tensor, Tensor]:
    return torch.zeros(2, dtype=torch.int64), torch.zeros(2, what.card.units)


def onnx(what: LanguageFile) -> bytes:
    """ONNX: inputs "tokens" (B,) and "carry" (B, n), outputs "logits" (B, V) and "carry_after" (B, n), B free."""
    return to_onnx(OneStep(what.net).eval(), _example(what), ["tokens", "carry"], ["logits", "carry_after"])


def pt2(what: LanguageFile) -> bytes:
    """A program of `torch.export` with the same inputs and outputs."""
    return to_pt2(OneStep(what.net).eval(), _example(what))


IMPORTS = """from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
PARTS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (genotypes, ("INPUTS", "Gene", "CellGenes")),
    (decoder, ("AT_A_TIME", "cross_entropy", "InPieces")),
    (
        recurrent,
        (
            "ACTIVATIONS", "SPREAD", "KIND", "Rates", "Decoded", "Masks", "masked", "drawn", "bounded", "highway",
            "RecurrentCell", "FixedRecurrentCell", "LanguageModel", "RecurrentNetwork", "zero_carry",
        ),
    ),
)  # fmt: skip
ENDING = f'''
def network() -> RecurrentNetwork:
    """The model with fresh weights."""
    nodes, output = CELL
    cell = CellGenes(tuple((Gene(*gene),) for gene in nodes), tuple(output), 1)
    return RecurrentNetwork(Genotype({{KIND: cell}}), VOCABULARY, UNITS, limit=LIMIT)


{LOAD.replace("Network", "RecurrentNetwork")}

@torch.no_grad()
def write(net: RecurrentNetwork, length: int = 40, start: str = "") -> str:
    """Text of `length` tokens drawn from the model's predictions, as torch.manual_seed decides."""
    begin = [WORDS.index(word) for word in (start.split() if LEVEL == "word" else start)] or [0]
    tokens, carry = torch.tensor(begin)[:, None], zero_carry(1, UNITS, net.words)
    for _ in range(length):
        said, carry = net(tokens, carry)
        tokens = torch.multinomial(torch.softmax(said.logits[-1], -1), 1)
        begin.append(int(tokens))
    return (" " if LEVEL == "word" else "").join(WORDS[token] for token in begin)


if __name__ == "__main__":
    net = load(sys.argv[1]) if len(sys.argv) > 1 else network().eval()
    print(f"{{sum(p.numel() for p in net.parameters()):,}} parameters, {{VOCABULARY:,}} different tokens")
    print(write(net) if WORDS else "the words are not in this file")
'''


def model_py(what: LanguageFile) -> bytes:
    """The model as one Python file that imports torch alone: the source of this package's own parts, put together.

    Its state dict has the same names, so `load("FILE.safetensors")` in it reads what `--format weights` wrote.
    """
    card, cell = what.card, what.card.genotype.cells[RECURRENT]
    lines = [repr(card.words[k : k + 8])[1:-1].rstrip(",") for k in range(0, len(card.words), 8)]
    words = "".join(f"    {line},\n" for line in lines)
    facts = [
        f"CELL = {([list(node[0]) for node in cell.nodes], list(cell.output))!r}  # (function, source state), output",
        f"VOCABULARY, UNITS, LIMIT, LEVEL = {card.vocabulary}, {card.units}, {card.limit!r}, {card.level!r}",
        f"WORDS = (\n{words})" if words else "WORDS = ()",
    ]
    said = (
        f"A language model ({plain_words(card.cell or 'a recurrent cell')}). Needs torch alone.\n\n"
        '    net = load("FILE.safetensors")                      # weights written by: export --format weights\n'
        "    said, carry = net(tokens, zero_carry(B, UNITS))     # (T, B) numbers of words; said.logits (T, B, V)\n"
    )
    body = [f'"""{said}"""\n', IMPORTS, "\n".join(facts)]
    body.append('class BadInput(ValueError):\n    """Where, which field, what is wrong, and how to mend it."""')
    body.append('class Genotype(NamedTuple):\n    """Its one cell."""\n\n    cells: dict[str, CellGenes]')
    for module, names in PARTS:
        source = source_of(module)
        body += [source[name] for name in names]
    return ("\n\n\n".join(part.strip("\n") for part in body) + "\n\n" + ENDING).encode()


WRITERS: Mapping[str, Callable[[LanguageFile], bytes]] = {
    "py": model_py, "weights": weights, "onnx": onnx, "pt2": pt2,
}  # fmt: skip


def write(format: str, genotype: Genotype, title: str, run: RunReader | None) -> bytes:
    """The file's bytes, for formats made of a network.

    Raises:
        BadInput: the run is a search, and the format needs trained weights; or there is no such model.
    """
    if run is not None and format in TRAINED and run.info["config"].get("strategy") != EVALUATE:
        what = f"{format} holds trained weights, and a search has those of its supernet alone"
        raise BadInput(
            "export", "format", what, f"train its cell first: python -m darts_core evaluate --run {run.name}"
        )
    return WRITERS[format](taken(genotype, title, run))
