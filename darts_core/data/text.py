"""Text as numbered tokens: two generated languages with a known floor, folders in the layout of PTB and WikiText-2, and
any text file.

A line is its words and `<eos>`; the vocabulary numbers words in the order in which training, validation and test text
show them first, as the original code does. At the level of characters every character is a token, line ends too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from darts_core import io
from darts_core.data.languages import agreement, markov
from darts_core.errors import BadInput, one_line, unknown

MAX_FILE = 512 * 2**20  # bytes of one text file
MAX_VOCABULARY = 300_000
MIN_TOKENS = 100  # per split: less cannot be cut into columns
EOS = "<eos>"
LEVELS = ("word", "char")
LAYOUTS = (  # names of the three files: ours, those of the Penn Treebank archive, those of WikiText
    ("train.txt", "valid.txt", "test.txt"),
    ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
)
HELP = {
    "ptb": "The Penn Treebank has no open licence: take the word-level files ptb.train.txt, ptb.valid.txt and "
    "ptb.test.txt (Mikolov et al. 2010) from someone entitled to share them, and set path to their folder",
    "wikitext2": "download WikiText-2 (word level, Merity et al. 2016, CC BY-SA), unpack it, and set path to the "
    "folder that holds wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, or train.txt, valid.txt and test.txt",
    "text": "set path to a text file, or to a folder with train.txt, valid.txt and test.txt",
}


@dataclass(frozen=True)
class Text:
    """A text data set in memory, as streams of token numbers on the CPU."""

    name: str
    level: str  # "word" or "char"
    vocabulary: tuple[str, ...]
    train: Tensor  # int64 (N,)
    valid: Tensor  # int64 (N',)
    test: Tensor  # int64 (N'',)
    floor: float | None = None  # nats per token: the entropy rate, where it is known; no model can be lower
    notes: tuple[str, ...] = ()  # sentences to announce beside every result

    def written(self, tokens: Iterable[int]) -> str:
        """Tokens as a person reads them."""
        words = [self.vocabulary[token] for token in tokens]
        if self.level == "char":
            return "".join(words)
        lines: list[list[str]] = [[]]
        for word in words:
            if word == EOS:
                lines.append([])
            else:
                lines[-1].append(word)
        return "\n".join(" ".join(line) for line in lines).strip("\n")


@dataclass(frozen=True)
class TextSource:
    """Where a text comes from, and what a form or a help text says about it."""

    read: Callable[[str, str], Text]  # (path, level)
    doc: str
    licence: str
    needs: str = ""  # how to come by the path that it cannot do without; empty: it is made here


def load_text(name: str, path: str = "", level: str = "word", subset: int = 0) -> Text:
    """A text in memory. `subset` takes that many training tokens from the start, 0 all.

    Raises:
        BadInput: no such data set, a file that is missing, too large or no text, or too little text.
    """
    if name not in TEXTS:
        raise unknown("data", "text", name, TEXTS)
    if level not in LEVELS:
        raise unknown("data", "level", level, LEVELS)
    source = TEXTS[name]
    if source.needs and not path:
        raise BadInput("data", "path", f"data set {name} needs one", source.needs)
    if path and not source.needs:
        raise BadInput("data", "path", f"data set {name} comes with the package and needs none", "leave path out")
    text = source.read(path, level)
    if subset:
        text = replace(text, train=text.train[:subset])
    for split in ("train", "valid", "test"):
        if (found := len(getattr(text, split))) < MIN_TOKENS:
            what = f"its {split} part has {found} tokens, at least {MIN_TOKENS} are needed"
            raise BadInput(path or name, "text", what, "give more text" if not subset else "give a larger subset")
    return text


def read_generated(name: str, path: str, level: str) -> Text:
    """One of the languages in `languages.py`, always the same text."""
    language = {"markov": markov, "agreement": agreement}[name]()
    train, valid, test = (torch.tensor(part) for part in language.parts())
    note = (
        f"a generated language: its entropy rate is {language.floor:.4f} nats per token, so no model can have a "
        f"perplexity below {math.exp(language.floor):.3f}; {language.weaker}"
    )
    return Text(name, "word", language.words, train, valid, test, language.floor, (note,))


def read_files(name: str, path: str, level: str) -> Text:
    """A folder in one of `LAYOUTS`, or one file, of which the last two tenths are held out."""
    place, notes = Path(path).expanduser(), ()
    if place.is_dir():
        names = next((files for files in LAYOUTS if all((place / file).is_file() for file in files)), None)
        if names is None:
            raise BadInput(place, "path", "does not hold train.txt, valid.txt and test.txt", HELP[name])
        parts = [tokens_of(place / file, level) for file in names]
    elif place.is_file():
        whole = tokens_of(place, level)
        cuts = 8 * len(whole) // 10, 9 * len(whole) // 10
        parts = [whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :]]
        notes = ("one file: its last two tenths were held out for validation and test",)
    else:
        raise BadInput(place, "path", "there is nothing here", HELP[name])
    vocabulary: dict[str, int] = {}
    numbered = [[vocabulary.setdefault(token, len(vocabulary)) for token in part] for part in parts]
    if len(vocabulary) > MAX_VOCABULARY:
        what = f"has {len(vocabulary):,} different tokens, at most {MAX_VOCABULARY:,} are taken"
        raise BadInput(place, "text", what, "replace rare words by <unk>, or set level=char")
    if len(vocabulary) < 2:
        raise BadInput(place, "text", "has fewer than two different tokens", "give a text")
    train, valid, test = (torch.tensor(part, dtype=torch.int64) for part in numbered)
    return Text(name, level, tuple(vocabulary), train, valid, test, None, notes)


def tokens_of(file: Path, level: str) -> Sequence[str]:
    """The tokens of a text file in UTF-8."""
    data = io.read_bytes(file.resolve(), MAX_FILE)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x})"
        raise BadInput(file, "text", what, "save it as UTF-8") from error
    if "\0" in text:
        raise BadInput(file, "text", "holds zero bytes: this is no text", "give a text file")
    text = text.replace("\r\n", "\n")
    if level == "char":
        return text
    longest = max(map(len, text.split()), default=0)
    if longest > 1000:
        what = f"holds a word of {longest} characters"
        raise BadInput(file, "text", one_line(what), "separate words by blanks, or set level=char")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()  # what ends with a line end has no further line
    return [token for line in lines for token in (*line.split(), EOS)]


def _generated(name: str) -> Callable[[str, str], Text]:
    return lambda path, level: read_generated(name, path, level)


def _files(name: str) -> Callable[[str, str], Text]:
    return lambda path, level: read_files(name, path, level)


TEXTS: Mapping[str, TextSource] = {
    "markov": TextSource(
        _generated("markov"),
        "A generated language of 8 syllables, each decided by the two before it: the lowest perplexity is known.",
        "none needed",
    ),
    "agreement": TextSource(
        _generated("agreement"),
        "Generated sentences whose verb agrees with a subject some words before: the lowest perplexity is known.",
        "none needed",
    ),
    "ptb": TextSource(_files("ptb"), "Penn Treebank, words: the text of the paper; set path.", "LDC", HELP["ptb"]),
    "wikitext2": TextSource(
        _files("wikitext2"), "WikiText-2, words of Wikipedia articles; set path.", "CC BY-SA", HELP["wikitext2"]
    ),
    "text": TextSource(
        _files("text"), "Your own text: a file, or a folder with train.txt, valid.txt and test.txt.", "yours",
        HELP["text"],
    ),
}  # fmt: skip
