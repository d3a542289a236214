"""Genotypes from files: both forms survive, everything else is one sentence, nothing is ever run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_core.errors import BadInput
from darts_core.genotype import Genotype, random_genotype
from darts_core.space import space_named

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
)


def test_the_published_text_is_read_and_written_unchanged() -> None:
    genotype = Genotype.parse(DARTS_V2)
    assert genotype.text() == DARTS_V2
    assert genotype.count("skip_connect") == 2 and genotype.cells["reduce"].output == (2, 3, 4, 5)


@pytest.mark.parametrize("seed", range(20))
def test_both_forms_survive(seed: int, tmp_path: Path) -> None:
    genotype = random_genotype(space_named("darts"), random.Random(seed))
    for suffix, text in (("json", genotype.dumps()), ("txt", genotype.text())):
        path = tmp_path / f"cell.{suffix}"
        path.write_text(text, encoding="utf-8")
        assert Genotype.read(path) == genotype


@pytest.mark.parametrize(
    "text, expected",
    [
        ("__import__('os').system('touch ran')", "not Genotype"),
        ("Genotype(normal=__import__('os'), normal_concat=range(2, 6))", "plain data"),
        (DARTS_V2.replace("dil_conv_3x3", "dil_conv_3x4"), "did you mean 'dil_conv_3x3'"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "earlier state"),
        (DARTS_V2.replace("range(2, 6)", "range(2, 10**9)"), "normal_concat"),
        (DARTS_V2.replace("normal_concat=range(2, 6), ", ""), "name_concat"),
        ("[" * 5000, "not a genotype"),
        ("", "not a genotype"),
    ],
)
def test_what_is_no_genotype_is_one_sentence_and_never_run(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=expected) as found:
        Genotype.parse(text)
    assert "\n" not in str(found.value) and not (tmp_path / "ran").exists()


BASE = json.loads(random_genotype(space_named("darts"), random.Random(0)).dumps())
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 99), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=800, deadline=None)
@given(data=st.data())
def test_a_mutated_genotype_loads_and_survives_or_names_what_is_wrong(data: st.DataObject) -> None:
    """Replace one value anywhere in the tree by junk."""
    tree = json.loads(json.dumps(BASE))
    here = tree
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        below = here[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.integers(0, 3)) == 0:
            here[key] = data.draw(JUNK)
            break
        here = below
    try:
        genotype = Genotype.from_json(tree, "cell.json")
    except BadInput as error:
        assert error.where == "cell.json" and "\n" not in str(error)
    else:
        assert Genotype.from_json(genotype.to_json()) == genotype


@settings(max_examples=800, deadline=None)
@given(st.data())
def test_mutated_text_loads_or_names_what_is_wrong(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(DARTS_V2)))
    cut = data.draw(st.integers(0, 12))
    text = DARTS_V2[:at] + data.draw(st.text(max_size=6)) + DARTS_V2[at + cut :]
    try:
        genotype = Genotype.parse(text)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert Genotype.from_json(genotype.to_json()) == genotype


def test_an_endless_or_binary_file_is_a_sentence(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.json", tmp_path / "binary.json"
    large.write_bytes(b"{" * 200_000)
    binary.write_bytes(bytes(range(256)))
    for path in (large, binary, tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadInput):
            Genotype.read(path)


def test_darts_text_refuses_a_node_without_two_genes() -> None:
    tree = json.loads(json.dumps(BASE))
    tree["cells"]["normal"]["nodes"][0] = []
    with pytest.raises(BadInput, match="exactly two genes"):
        Genotype.from_json(tree).text()
