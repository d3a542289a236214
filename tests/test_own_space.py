"""A space of one's own: read as data, kept with the run, searched by everything; and the page that explains it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from darts_core import own_space, truth
from darts_core.__main__ import main
from darts_core.config import SearchConfig, preset_named
from darts_core.errors import BadInput
from darts_core.legal import edge_name
from darts_core.runs import RunReader
from darts_core.space import SPACES, SearchSpace, count_genotypes, space_named

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/your-own-space.md").read_text("utf-8")
GOOD: dict[str, Any] = {"name": "mine", "nodes": 2, "operations": ["skip_connect", "sep_conv_3x3"]}


def space_of(**changes: Any) -> SearchSpace:
    text = own_space.described({**GOOD, **changes}, "mine.json").text
    return SearchConfig.from_dict({"space": "own", "own_space": text}).search_space()


def refused(data: Any) -> str:
    with pytest.raises(BadInput) as found:
        own_space.described(data, "mine.json")
    return str(found.value)


def test_a_space_written_like_one_of_the_list_is_that_space() -> None:
    for name, form in (("darts", "darts"), ("s3", "darts"), ("nasbench201", "bench")):
        entry = SPACES[name]
        mine = space_of(form=form, nodes=entry.nodes, operations=list(entry.ops))
        assert dict(mine.cells) == dict(space_named(name).cells) and mine.name == "mine"


def test_the_bytes_of_a_file_are_read_as_the_file_is_and_too_many_are_refused() -> None:
    as_json, as_python = json.dumps(GOOD), "\n".join(f"{key} = {value!r}" for key, value in GOOD.items())
    found = [
        own_space.from_bytes(text.encode(), f"mine.{kind}") for kind, text in (("json", as_json), ("py", as_python))
    ]
    assert found[0].text == found[1].text
    assert own_space.settings(found[0]) == {"space": "own", "own_space": found[0].text, "nodes": 0}
    with pytest.raises(BadInput, match="more than 65,536 bytes"):
        own_space.from_bytes(b" " * (own_space.MAX_FILE + 1), "mine.json")
    with pytest.raises(BadInput, match="mine.py"):
        own_space.from_bytes(b"import os", "mine.py")


def test_an_edge_may_be_restricted_in_every_cell_or_in_one_kind() -> None:
    edges = {"0-2": ["skip_connect"], "normal-0-2": ["sep_conv_3x3"], "2-3": ["sep_conv_3x3"]}
    found = {
        edge_name(kind, edge): cell.choices(e)
        for kind, cell in space_of(edges=edges).cells.items()
        for e, edge in enumerate(cell.edges)
    }
    both = ["skip_connect", "sep_conv_3x3"]
    assert found["normal-0-2"] == ["sep_conv_3x3"] and found["reduce-0-2"] == ["skip_connect"]
    assert found["normal-2-3"] == found["reduce-2-3"] == ["sep_conv_3x3"] and found["normal-1-2"] == both


def test_an_operation_may_be_written_with_its_parameters() -> None:
    ops = [{"op": "sep_conv", "kernel": 7}, {"op": "skip_connect"}, {"op": "nor_conv", "kernel": 1}, "dil_conv_5x5"]
    assert space_of(operations=ops).cells["normal"].ops == (
        "sep_conv_7x7", "skip_connect", "nor_conv_1x1", "dil_conv_5x5"
    )  # fmt: skip


def test_keep_decides_how_many_cells_there_are() -> None:
    """Per node C(edges, keep) * 2^keep; with two nodes of 2 and 3 edges."""
    counts = {keep: count_genotypes(space_of(keep=keep).cells["normal"]) for keep in (1, 2, 3, "all")}
    assert counts == {1: 4 * 6, 2: 4 * 12, 3: 4 * 8, "all": 4 * 8}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"nodse": 3}, "mine.json: key: unknown key 'nodse'; did you mean 'nodes'?"),
        ({"name": "darts"}, "name: darts is the name of a space that exists already"),
        ({"name": "My Space"}, "is not a name"),
        ({"form": "cnn"}, "unknown form 'cnn'"),
        ({"nodes": 13}, "nodes: '13' is not a whole number from 1 to 12"),
        ({"nodes": True}, "nodes: 'True' is not a whole number"),
        ({"operations": []}, "operations: must be a list with at least one operation"),
        ({"operations": "skip_connect"}, "operations: must be a list"),
        ({"operations": ["skip_conect"]}, "unknown operation 'skip_conect'; did you mean 'skip_connect'?"),
        ({"operations": ["tanh"]}, "unknown operation 'tanh'"),
        ({"operations": ["none"]}, "holds none alone"),
        ({"operations": ["none", "none"]}, "none is there twice"),
        ({"operations": [{"op": "sep_conv", "kernel": 4}]}, "sep_conv with kernel 4 is not known; it has kernel 3;"),
        ({"operations": [{"op": "sep_conv"}]}, "sep_conv with no kernel is not known"),
        ({"operations": [{"op": "sep_con", "kernel": 3}]}, "did you mean 'sep_conv'?"),
        ({"operations": [{"op": "sep_conv", "size": 3}]}, "unknown key of an operation 'size'"),
        ({"keep": 0}, "keep: '0' is not a whole number from 1 to 3 or \"all\""),
        ({"form": "bench", "keep": 2}, "keep: is all in a cell of form bench"),
        ({"edges": {"0-4": ["skip_connect"]}}, "edges: 0-4 is out of range; it leads from an earlier state to one of"),
        ({"edges": {"3-2": ["skip_connect"]}}, "edges: 3-2 is out of range"),
        ({"edges": {"0-1": ["skip_connect"]}}, "edges: 0-1 is out of range"),
        ({"edges": {"a-b": ["skip_connect"]}}, "'a-b' is no edge; write source-target"),
        ({"edges": {"norml-0-2": ["skip_connect"]}}, "did you mean 'normal'?"),
        ({"edges": {"0-2": ["sep_conv_5x5"]}}, "edges.0-2: sep_conv_5x5 is not among the operations"),
        ({"edges": {"0-2": []}}, "must be a list with at least one operation"),
        ({"operations": ["none", "skip_connect"], "edges": {"0-2": ["none"]}}, "may hold none alone"),
        ({"form": "recurrent", "operations": ["tanh"], "edges": {"0-1": ["tanh"]}}, "cannot be restricted"),
        ({"form": "chain", "operations": ["skip_connect"]}, "nodes: is not for a chain"),
        ({"nodes": 12, "edges": {f"normal-{a}-{b}": ["sep_conv_3x3"] for b in range(2, 14) for a in range(b)} | {
            f"reduce-{a}-{b}": ["sep_conv_3x3"] for b in range(2, 14) for a in range(b)}}, "and 4096 is the limit"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence(changes: dict[str, Any], expected: str) -> None:
    assert expected in refused({**GOOD, **changes})


def test_what_is_missing_or_no_object_is_said() -> None:
    assert "name: is missing" in refused({"operations": ["skip_connect"]})
    assert "operations: is missing" in refused({"name": "mine"})
    assert "is not an object" in refused(["mine"])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("import os\nname = 'x'", "line 1: is not NAME = VALUE; the file is read as data and never run"),
        ("name = open('/etc/passwd').read()", "line 1: the value of name is not plain data"),
        ("name = 'x'\nnodes = 1 + len('abc')", "line 2: the value of nodes is not plain data"),
        ("name = 'x'\nname = 'y'", "line 2: gives name again"),
        ("a, b = 1, 2", "line 1: is not NAME = VALUE"),
        ("name = [", "line 1: is not Python"),
        ("print('hello')", "line 1: is not NAME = VALUE"),
        ("name = " + "(" * 5000 + ")" * 5000, "is not Python"),
    ],
)
def test_a_python_file_is_read_and_never_run(text: str, expected: str) -> None:
    with pytest.raises(BadInput) as found:
        own_space.python_data(text.encode(), "mine.py")
    assert expected in str(found.value)


def test_the_setting_is_checked_brought_to_one_form_and_dropped_where_the_space_is_another() -> None:
    loose = json.dumps({**GOOD, "form": "darts", "keep": 2}, indent=3)
    config = SearchConfig.from_dict({"space": "own", "own_space": loose})
    assert config.own_space == own_space.described(GOOD, "").text
    assert SearchConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.with_(space="s2").own_space == ""
    with pytest.raises(BadInput, match="own_space: is empty"):
        SearchConfig.from_dict({"space": "own"})
    with pytest.raises(BadInput, match="needs a text"):
        tanh = {"name": "t", "form": "recurrent", "operations": ["none", "tanh"]}
        SearchConfig.from_dict({"space": "own", "own_space": json.dumps(tanh)})


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, where runs and tables go too."""
    wide, pair = blocks("json")
    (tmp_path / "wide.json").write_text(wide, "utf-8")
    (tmp_path / "wide.py").write_text(blocks("python")[0], "utf-8")
    (tmp_path / "pair.json").write_text(pair, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DARTS_TINY", str(tmp_path / "tiny"))
    truth.read.cache_clear()
    return tmp_path


def told(line: str) -> None:
    """One line of the page, run in this process."""
    program, *words = shlex.split(line)
    assert program == "darts-workbench"
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None), line


def test_both_files_of_the_page_are_the_same_space(folder: Path) -> None:
    assert own_space.read(folder / "wide.json") == own_space.read(folder / "wide.py")
    pair = own_space.layout_of("pair", own_space.read(folder / "pair.json").text)
    assert count_genotypes(pair.cells["normal"]) == 36 and "36 cells" in PAGE


def test_the_page_names_every_operation_that_a_space_may_hold() -> None:
    said = PAGE.partition("Operations of images")[2]
    for form in own_space.FORMS.values():
        for op in form.ops:
            family, kernel = re.fullmatch(r"(.*?)(?:_(\dx\d))?(?:_e\d)?", op).groups()  # type: ignore[union-attr]
            assert op in said or (family in said and (kernel or "") in said) or family == "mbconv", op


@pytest.mark.slow
def test_the_searches_of_the_page_run_and_need_the_file_no_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = [line for line in blocks("console")[0].splitlines() if line]
    told(first)
    (folder / "wide.json").rename(folder / "elsewhere.json")
    for line in others[:-1]:
        told(line)
    (folder / "elsewhere.json").rename(folder / "wide.json")
    told(others[-1])
    runs = folder / "runs"
    assert "identical" in capsys.readouterr().out
    spaces = {name: SearchSpace.from_json(RunReader(runs, name).info["space"]) for name in ("wide", "wide-slower")}
    assert spaces["wide"] == spaces["wide-slower"] and spaces["wide"].name == "wide"
    assert spaces["wide"].cells["normal"].choices(0) == ["sep_conv_3x3", "sep_conv_5x5"]
    assert len(list(runs.glob("digits-wide-*-s*"))) == 4 and (folder / "wide.svg").read_bytes().startswith(b"<")


def test_the_truth_of_a_space_of_ones_own_is_made_and_looked_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darts_core import exhaustive

    monkeypatch.setattr(exhaustive.Recipe.__init__, "__defaults__", (3, 4, 2, 2, 1, 60, 0.1, 0.9, 5e-4))
    for line in filter(None, blocks("console")[1].splitlines()):
        told(line)
    text = own_space.read(folder / "pair.json").text
    table = truth.table_of("own", "digits", text)
    assert table is not None and table.test.shape == (36, 2) and table.about["own_space"] == text
    epochs = [e for e in RunReader(folder / "runs", "pair").events()[0] if e["type"] == "epoch"]
    assert all(1 <= e["probes"]["truth_rank"] <= 36 for e in epochs) and len(epochs) == 2
    best = [e for e in RunReader(folder / "runs", "pair-evolved").events()[0] if e["type"] == "result"][-1]
    assert best["metrics"]["trials"] == 20
    other = own_space.described({**json.loads(text), "edges": {}}, "").text
    assert truth.table_of("own", "digits", other) is None, "a space of the same name is not this one"


def test_spaces_that_cannot_be_trained_whole_are_refused() -> None:
    from darts_core import exhaustive

    for changes, expected in (
        ({}, 'use form "bench"'),
        ({"form": "bench", "operations": ["noise", "skip_connect"]}, "holds noise"),
        ({"form": "bench", "nodes": 6}, "2,097,152 cells"),
    ):
        with pytest.raises(BadInput, match=re.escape(expected)):
            exhaustive.buildable(space_of(**changes))


def test_seeds_of_a_cell_with_separable_convolutions_trained_side_by_side_are_those_trained_alone() -> None:
    """Depthwise convolutions have groups of their own already."""
    import torch

    from darts_core import data, exhaustive
    from darts_core.genotype import genotype_of

    ops = ["sep_conv_3x3", "dil_conv_5x5", "avg_pool_3x3"]
    layout = space_of(form="bench", operations=ops)
    genotype = genotype_of("mine", "normal", layout.cells["normal"], ops)
    recipe, images = exhaustive.Recipe(cells=1, channels=4), data.load("digits")
    nets = [exhaustive.fresh(recipe, genotype, images, seed, torch.float64) for seed in (0, 1)]
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    alone = [net(x) for net in nets]
    both = exhaustive.side_by_side(nets)(x.repeat(1, 2, 1, 1))
    assert torch.allclose(torch.stack(alone, 1), both, atol=1e-10)


@pytest.mark.parametrize("form", ["recurrent", "chain", "bench"])
def test_other_forms_are_searched_too(form: str, folder: Path) -> None:
    ops = {
        "recurrent": ["none", "tanh", "relu"],
        "chain": [{"op": "mbconv", "kernel": 3, "expansion": 3}, "skip_connect"],
        "bench": ["none", "skip_connect", "max_pool_3x3", {"op": "nor_conv", "kernel": 3}],
    }[form]
    mine = {"name": "mine", "form": form, "operations": ops, **({} if form == "chain" else {"nodes": 2})}
    (folder / "mine.json").write_text(json.dumps(mine), "utf-8")
    small = {"recurrent": "--set bptt=5 --set batch=8 --set subset=2000 --set units=8"}.get(form, "--set subset=200")
    preset = "recurrent" if form == "recurrent" else "tiny"
    told(
        f"darts-workbench search --preset {preset} --space mine.json --epochs 1 --set retrain_epochs=0"
        f" --set random_cells=0 --name {form} {small}"
    )
    info = RunReader(folder / "runs", form).info
    kind = {"recurrent": "recurrent", "chain": "chain", "bench": "normal"}[form]
    assert list(info["space"]["cells"]) == [kind] and info["space"]["name"] == "mine"
    assert preset_named(preset).config().space != "own"


def test_what_is_pasted_into_the_form_is_read_as_the_file_would_be() -> None:
    data = {"name": "mine", "operations": ["skip_connect", "sep_conv_3x3"], "nodes": 2}
    python = "\n".join(f"{key} = {value!r}" for key, value in data.items())
    assert own_space.pasted(json.dumps(data)).text == own_space.pasted(f"\n{python}\n").text
    for text, said in (("", "is empty"), ("import os", "line 1"), ("{", "JSON"), ("x" * (1 << 17), "longer than")):
        with pytest.raises(BadInput, match=said):
            own_space.pasted(text)
