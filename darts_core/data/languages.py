"""Two small languages, generated from a seed, whose entropy rate is known exactly: a floor under every perplexity.

`markov`: a source of order two. `agreement`: sentences whose verb agrees with a subject that may stand far back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from darts_core.seeds import seed

SIZES = (20_000, 6_000, 6_000)  # tokens for training, validation and test
SYLLABLES = ("ba", "di", "ko", "lu", "me", "no", "ra", "ti")
NOUNS = (("cat", "dog"), ("cats", "dogs"))  # singular, plural
VERBS = (("sleeps", "runs"), ("sleep", "run"))
FILLERS = ("often", "today", "there")
STAY = 0.75  # probability that another filler follows


@dataclass(frozen=True)
class Language:
    """A source of tokens and what is known about it."""

    words: tuple[str, ...]
    floor: float  # nats per token, the entropy rate
    weaker: str  # what a model with a shorter memory reaches, in a sentence
    tokens: Callable[[np.random.Generator], Iterator[int]]

    def parts(self) -> list[list[int]]:
        """Training, validation and test tokens: one fixed text, whatever the seed of a search."""
        rng = np.random.Generator(np.random.PCG64(seed(0, "language")))
        source = self.tokens(rng)
        return [list(islice(source, size)) for size in SIZES]


def markov() -> Language:
    """Order two over 8 syllables: each pair has two successors, with probabilities 0.8 and 0.2."""
    V = len(SYLLABLES)
    rng = np.random.Generator(np.random.PCG64(seed(1, "language")))
    table = np.zeros((V, V, V))  # P(next | before last, last)
    for a in range(V):
        for b in range(V):
            first, second = rng.permutation(V)[:2]
            table[a, b, first], table[a, b, second] = 0.8, 0.2

    def tokens(rng: np.random.Generator) -> Iterator[int]:
        likely = table.argmax(-1)
        other = np.where(table == 0.2, np.arange(V), 0).max(-1)
        a, b = 0, 1
        while True:
            for draw in rng.random(4096):
                a, b = b, int(likely[a, b] if draw < 0.8 else other[a, b])
                yield b

    pairs = stationary(table)
    floor = float(-(pairs[..., None] * table * np.log(np.where(table > 0, table, 1))).sum())
    after = (pairs[..., None] * table).sum(0)  # P(last, next)
    one = after / np.maximum(after.sum(-1, keepdims=True), 1e-300)
    order_1 = float(-(after * np.log(np.where(one > 0, one, 1))).sum())
    weaker = f"a model that sees the last syllable alone stays at {math.exp(order_1):.2f}"
    return Language(SYLLABLES, floor, weaker, tokens)


def stationary(table: np.ndarray) -> np.ndarray:
    """(V, V): how often each pair occurs in the long run, from P(next | pair) (V, V, V) and the start (0, 1)."""
    V = len(table)
    pairs = np.zeros((V, V))
    pairs[0, 1] = 1.0
    mean, kept = np.zeros((V, V)), 4000
    for turn in range(2 * kept):  # the mean over a long stretch: a chain may have a period
        pairs = np.einsum("ab,abc->bc", pairs, table)
        if turn >= kept:
            mean += pairs / kept
    return mean


def agreement() -> Language:
    """Noun, some fillers, a verb of the noun's number, end of the sentence."""
    words = (*NOUNS[0], *NOUNS[1], *FILLERS, *VERBS[0], *VERBS[1], "<eos>")
    number = {word: i for i, word in enumerate(words)}

    def tokens(rng: np.random.Generator) -> Iterator[int]:
        while True:
            plural = int(rng.random() < 0.5)
            yield number[NOUNS[plural][int(rng.random() < 0.5)]]
            while rng.random() < STAY:
                yield number[FILLERS[int(rng.random() * len(FILLERS))]]
            yield number[VERBS[plural][int(rng.random() < 0.5)]]
            yield number["<eos>"]

    decision = -(STAY * math.log(STAY) + (1 - STAY) * math.log(1 - STAY))
    fillers = STAY / (1 - STAY)  # per sentence, on average
    nats = math.log(4) + (fillers + 1) * decision + fillers * math.log(len(FILLERS)) + math.log(2)
    length = fillers + 3
    forgetful = math.exp((nats + math.log(2)) / length)
    weaker = f"a model that forgets the subject stays at {forgetful:.2f}"
    return Language(words, nats / length, weaker, tokens)
