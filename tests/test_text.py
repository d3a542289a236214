"""Text: what files become, what the generated languages promise, and which stretches a search reads."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from darts_core.data.languages import agreement, markov
from darts_core.data.text import Text, load_text
from darts_core.data.text_plan import TextPlan
from darts_core.errors import BadInput


def folder(place: Path, train: str = "a b\nc a\n", **others: str) -> str:
    for name, content in {"train": train * 40, "valid": "b d\n" * 40, "test": "a e\n" * 40, **others}.items():
        (place / f"{name}.txt").write_text(content, encoding="utf-8")
    return str(place)


def counting(rows: int, columns: int) -> Text:
    """Column b, row t holds b * rows + t, so that places can be read off tokens."""
    stream = torch.arange(rows * columns)
    return Text("made", "word", tuple(map(str, range(rows * columns))), stream, stream, stream)


def test_the_vocabulary_is_in_order_of_first_appearance_with_a_token_per_line_end(tmp_path: Path) -> None:
    text = load_text("text", folder(tmp_path))
    assert text.vocabulary == ("a", "b", "<eos>", "c", "d", "e")
    assert text.train[:6].tolist() == [0, 1, 2, 3, 0, 2]
    assert text.valid[:3].tolist() == [1, 4, 2] and text.test[:3].tolist() == [0, 5, 2]
    assert text.written([0, 1, 2, 3, 0, 2]) == "a b\nc a"


def test_blank_lines_count_as_lines_and_a_missing_last_line_end_changes_nothing(tmp_path: Path) -> None:
    one = load_text("text", folder(tmp_path, "a\n\n b \n" * 20))
    assert one.train[:5].tolist() == [0, 1, 1, 2, 1]
    two = load_text("text", folder(tmp_path, valid="x\n" * 60 + "x"))
    assert len(two.valid) == 122


def test_characters_are_tokens_at_the_level_of_characters(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("ab\n" * 500, encoding="utf-8")
    text = load_text("text", str(tmp_path / "one.txt"), level="char")
    assert text.vocabulary == ("a", "b", "\n")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [1200, 150, 150]
    assert text.written(text.train[:6].tolist()) == "ab\nab\n"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: str(p), "train.txt"),
        (lambda p: str(p / "missing"), "nothing here"),
        (lambda p: folder(p, valid="x\n"), "valid part has 2 tokens"),
        (lambda p: folder(p, valid="x\0" * 100), "zero bytes"),
        (lambda p: folder(p, valid="x" * 2000), "a word of 2000 characters"),
    ],
)
def test_what_cannot_be_read_ends_with_a_sentence(make, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=says):
        load_text("text", make(tmp_path))


def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"abc \xff" * 100)
    with pytest.raises(BadInput, match="byte 4 is 0xff"):
        load_text("text", place)


@pytest.mark.parametrize("name", ["ptb", "wikitext2", "text"])
def test_published_texts_without_a_path_say_how_to_get_them(name: str) -> None:
    with pytest.raises(BadInput, match="set path"):
        load_text(name)


def _conditional_entropy(tokens: list[int], order: int) -> float:
    """Nats per token of the best model with so much memory, estimated from counts."""
    joint = Counter(zip(*(tokens[k:] for k in range(order + 1)), strict=False))
    before = Counter(gram[:-1] for gram in joint.elements())
    total = sum(joint.values())
    return -sum(n / total * math.log(n / before[gram[:-1]]) for gram, n in joint.items())


def test_the_floor_of_the_markov_language_is_its_entropy_rate() -> None:
    tokens = markov().parts()[0]
    assert _conditional_entropy(tokens, 2) == pytest.approx(markov().floor, rel=0.01)
    assert markov().floor == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    weaker = float(markov().weaker.rpartition(" ")[2])
    assert math.exp(_conditional_entropy(tokens, 1)) == pytest.approx(weaker, rel=0.02)


def test_the_floor_of_the_agreement_language_is_what_its_own_probabilities_cost() -> None:
    """The text scored by the grammar itself, sentence by sentence."""
    language = agreement()
    words = [language.words[token] for token in language.parts()[0]]
    cost = 0.0
    for before, word in zip(["<eos>", *words], words, strict=False):
        if before == "<eos>":
            cost += math.log(4)
        elif word == "<eos>":
            cost += 0
        elif word in ("often", "today", "there"):
            cost -= math.log(0.75 / 3)
        else:
            cost -= math.log(0.25 / 2)
    assert cost / len(words) == pytest.approx(language.floor, rel=0.01)
    subjects = {"cat": "s", "dog": "s"}
    for sentence in " ".join(words[:3000]).split("<eos>")[:-1]:
        first, *_, last = sentence.split()
        assert last.endswith("s") == (first in subjects), sentence


def test_stretches_cover_every_column_once_and_continue_where_the_last_ended() -> None:
    plan = TextPlan(counting(100, 4), seed=1, batch=4, arch_batch=4, length=7)
    for epoch in (0, 1):
        seen = [plan.batch("weights", epoch, i) for i in range(plan.steps("weights", epoch))]
        tokens = torch.cat([b.tokens for b in seen])
        assert tokens[:, 1].tolist() == list(range(100, 100 + len(tokens))) and len(tokens) >= 98
        assert all(torch.equal(b.targets, b.tokens + 1) for b in seen)
        assert {b.rate for b in seen} <= {1.0, 3 / 7}
    assert plan.stretches("weights", 0) != plan.stretches("weights", 1)


def test_about_a_twentieth_of_the_stretches_is_half_as_long() -> None:
    plan = TextPlan(counting(40_000, 1), seed=1, batch=1, arch_batch=1, length=10)
    lengths = Counter(length for _, length in plan.stretches("weights", 0))
    assert set(lengths) == {10, 5} and 0.03 < lengths[5] / lengths.total() < 0.07


def test_jittered_lengths_stay_within_their_bounds() -> None:
    plan = TextPlan(counting(90_000, 1), seed=1, batch=1, arch_batch=1, length=35, jitter=True)
    lengths = [length for _, length in plan.stretches("weights", 0)]
    assert min(lengths) >= 5 and max(lengths) <= 55 and len(set(lengths)) > 15
    assert sum(lengths) / len(lengths) == pytest.approx(0.95 * 35 + 0.05 * 17.5, rel=0.03)


def test_architecture_batches_read_the_validation_text_at_the_same_row_and_wrap_around() -> None:
    stream = torch.arange(300)
    text = Text("made", "word", tuple(map(str, range(300))), stream, stream[:120], stream)
    plan = TextPlan(text, seed=1, batch=3, arch_batch=4, length=10)
    starts = [first for first, _ in plan.stretches("weights", 0)]
    assert len(plan.rows["arch"]) == 30 and max(starts) > 29
    for i, first in enumerate(starts):
        batch = plan.batch("arch", 0, i)
        assert int(batch.tokens[0, 0]) == first % 29
        assert len(batch.tokens) == min(10, 29 - first % 29) and batch.rate == 1.0


def test_evaluation_scores_every_row_but_the_first() -> None:
    plan = TextPlan(counting(50, 2), seed=1, batch=2, arch_batch=2, length=10)
    targets = torch.cat([b.targets for b in plan.eval_batches("test", 2, 10)])
    assert targets[:, 0].tolist() == list(range(1, 50))


def test_more_columns_than_the_text_has_room_for_is_refused() -> None:
    with pytest.raises(BadInput, match="columns"):
        TextPlan(counting(10, 4), seed=1, batch=20, arch_batch=4, length=5)
