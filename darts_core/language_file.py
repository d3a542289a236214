"""A trained language model as one file: safetensors, with what builds it, and its words, in the metadata.

model = darts_core.load("model.safetensors")       # or the folder of a run that trained a recurrent cell
logits, carry = model(tokens)                      # (T, B) numbers of words -> (T, B, V), and the state behind
print(model.write(40))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from darts_core import io
from darts_core.data.text import LEVELS, Text, load_text
from darts_core.data.text_plan import TextPlan
from darts_core.errors import BadInput
from darts_core.genotype import RECURRENT, Genotype
from darts_core.language import language_task, sample
from darts_core.language_training import score
from darts_core.nets.recurrent import RecurrentNetwork, zero_carry
from darts_core.runs import RunReader
from darts_core.weights_file import agree, last_state, pack, unpack

SCHEMA = 1
KEY = "language"  # of the metadata
ROOM_FOR_WORDS = io.HEADER_LIMIT // 2  # bytes of JSON; a larger vocabulary stays with the text it comes from
SIZES: Mapping[str, tuple[int, int]] = {"vocabulary": (1, 1 << 20), "units": (1, 1 << 14)}


@dataclass(frozen=True)
class LanguageCard:
    """What a file says of its language model: enough to build it and to name its words."""

    genotype: Genotype
    vocabulary: int
    units: int
    limit: float = 0.0  # on the norm of a hidden state; 0: none
    level: str = "word"
    words: tuple[str, ...] = ()  # of the vocabulary, in order; empty: they are not told
    cell: str = ""
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # "dataset", "path", "epochs", "test_perplexity" ...

    def to_json(self) -> dict[str, Any]:
        words = self.words if len(io.dumps(list(self.words)).encode()) <= ROOM_FOR_WORDS else ()
        return {
            "schema": SCHEMA, "genotype": self.genotype.to_json(), "vocabulary": self.vocabulary, "units": self.units,
            "limit": self.limit, "level": self.level, "words": list(words), "cell": self.cell, "note": self.note,
            "facts": self.facts,
        }  # fmt: skip

    @staticmethod
    def from_json(data: Any, where: str) -> LanguageCard:
        """Read what `to_json` wrote; every number that decides a size is bounded.

        Raises:
            BadInput: names what is wrong.
        """
        again = "export or import the model again"
        expected = {"schema", "genotype", "vocabulary", "units", "limit", "level", "words", "cell", "note", "facts"}
        if not isinstance(data, dict) or set(data) != expected or data["schema"] != SCHEMA:
            raise BadInput(where, KEY, "is not the description of a language model of this version", again)
        for name, (low, high) in SIZES.items():
            if type(data[name]) is not int or not low <= data[name] <= high:
                raise BadInput(where, name, f"must be from {low} to {high}", again)
        limit, words = data["limit"], data["words"]
        if type(limit) not in (int, float) or not math.isfinite(limit) or not 0 <= limit <= 1e6:
            raise BadInput(where, "limit", "must be a number from 0 to 1e6", again)
        if data["level"] not in LEVELS:
            raise BadInput(where, "level", f"must be one of {', '.join(LEVELS)}", again)
        told = (
            isinstance(words, list)
            and len(words) in (0, data["vocabulary"])
            and len(set(map(str, words))) == len(words)
        )
        if not told or not all(isinstance(word, str) and len(word) <= 1000 for word in words):
            raise BadInput(where, "words", f"must be {data['vocabulary']} different words, or none", again)
        if not all(isinstance(data[name], str) for name in ("cell", "note")) or not isinstance(data["facts"], dict):
            raise BadInput(where, "note", "must be text", again)
        genotype = Genotype.from_json(data["genotype"], where)
        if RECURRENT not in genotype.cells:
            raise BadInput(where, "genotype", "holds no recurrent cell", again)
        return LanguageCard(
            genotype, data["vocabulary"], data["units"], float(limit), data["level"], tuple(words), data["cell"][:200],
            data["note"][:2000], data["facts"],
        )  # fmt: skip

    def built(self) -> RecurrentNetwork:
        """The network with fresh weights."""
        return RecurrentNetwork(self.genotype, self.vocabulary, self.units, limit=self.limit)


class LanguageFile(nn.Module):
    """A language model with what it needs to be used."""

    def __init__(self, net: RecurrentNetwork, card: LanguageCard) -> None:
        super().__init__()
        self.net, self.card, self.words = net, card, card.words
        self.eval()

    @torch.no_grad()
    def forward(self, tokens: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (T, B) and the state before them (B, n; None: zeros) -> logits (T, B, V) and the state behind."""
        before = zero_carry(tokens.shape[1], self.net.units, self.net.words) if carry is None else carry
        said, after = self.net(tokens, before)
        return said.logits, after

    def write(self, length: int = 40, start: str = "", temperature: float = 1.0, seed: int = 0) -> str:
        """Text of `length` tokens drawn from its predictions; without a `start` from a word drawn at random.

        Raises:
            BadInput: the file does not tell its words, or `start` has one that it does not know.
        """
        if not self.words:
            raise BadInput("write", "words", "are not in this file", "ask for logits, or export a run")
        every = torch.arange(self.card.vocabulary)
        text = Text("", self.card.level, self.words, every, every, every)
        return sample(self.net, text, None, length, seed, temperature, start)


def to_bytes(net: RecurrentNetwork, card: LanguageCard) -> bytes:
    """The file's bytes: the state dict in float32, and the card in the metadata."""
    return pack({name: t.float() for name, t in net.state_dict().items()}, KEY, card.to_json())


def read(data: bytes, where: str) -> LanguageFile:
    """The language model in a file's bytes.

    Raises:
        BadInput: the file is damaged, or its tensors are not those of the model it describes.
    """
    return LanguageFile(*unpack(data, where, KEY, "language model", LanguageCard.from_json, LanguageCard.built))


def of_run(run: RunReader) -> LanguageFile:
    """The model at the last checkpoint of an evaluation on text.

    Raises:
        BadInput: the run is a search, has no checkpoint, or its text cannot be read any more.
    """
    config, state, file = last_state(run, "normalises over a batch, which no trained cell does")
    task = language_task(config, torch.device("cpu"))
    net = task.network(config.genotype())
    agree(state.judged, net.state_dict(), file)
    net.load_state_dict(state.judged)
    ends = [line for line in run.events()[0] if line["type"] == "trained"]
    told = {k: v for k, v in (ends[-1].get("metrics") or {}).items() if k.startswith("test_")} if ends else {}
    facts = {"dataset": config.dataset, "path": config.path, "epochs": state.epoch, **told}
    card = LanguageCard(
        config.genotype(), task.vocabulary, config.units, config.state_clip, task.text.level, task.text.vocabulary,
        str(config.options["label"]), "", facts,
    )  # fmt: skip
    return LanguageFile(net, card)


def tested_on(model: LanguageFile, dataset: str, path: str | None, columns: int) -> dict[str, Any]:
    """{"perplexity", "perplexity_as_original", "loss", "accuracy", "count", "columns"} on a data set's test text.

    Read in `columns` columns, the state carried from the first word to the last. The loss is per target; the original
    divides by the number of rows, of which one more is read than scored.

    Raises:
        BadInput: the text cannot be read, or has other words.
    """
    card = model.card
    text = load_text(dataset, path or str(card.facts.get("path", "")), card.level)
    found = len(text.vocabulary)
    if found != card.vocabulary or (card.words and card.words != text.vocabulary):
        what = f"has {found:,} different tokens, the model {card.vocabulary:,}"
        what = what if found != card.vocabulary else "numbers its words in another order than the model"
        raise BadInput("evaluate", "path", f"the text {what}", "give the text that it was trained on, whole")
    if len(text.test) // columns < 3:
        raise BadInput(
            "evaluate", "test_columns", f"{columns} are too many for {len(text.test):,} tokens", "give fewer"
        )
    plan = TextPlan(text, seed=0, batch=1, arch_batch=1, length=35)
    rows = len(text.test) // columns
    return {**score(model.net, plan, "test", columns), "count": (rows - 1) * columns, "columns": columns}
