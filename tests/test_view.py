"""Drawings, tables and figures without a browser."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import numpy as np
import pytest
from board_stage import METRICS, applied, made_up_events, made_up_steps, softmax

from app.board import build_board_data, collapse_levels
from darts_core import derive
from darts_core.errors import BadInput
from darts_core.events import short
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.space import KNOWN_OPS, SPACES, CellSpec, SearchSpace, conv_cell, space_named
from darts_core.view import dot, figures, layout, palette, svg, tables
from darts_core.view.layout import BOX, derived_layout
from darts_core.zoo import published

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'twice' \x00\x0b"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return space_named("darts")


@pytest.fixture(scope="module")
def steps(space: SearchSpace) -> np.ndarray:
    return made_up_steps(space, 700)


@pytest.fixture(scope="module")
def events(space: SearchSpace, steps: np.ndarray) -> list[dict]:
    return [*made_up_events(space, steps, 0.0), applied(378, "a_lr", 0.01, 99)]


@pytest.fixture(scope="module")
def genotype(space: SearchSpace, steps: np.ndarray) -> Genotype:
    return derive.derive(space, tables.mixes_at(steps, 400, space))


def odd_cell() -> CellSpec:
    """A topology that no fixed positions exist for: one input, two ways that meet."""
    edges = ((0, 1), (0, 2), (1, 3), (2, 3), (0, 3))
    return CellSpec(1, 3, ("none", "skip_connect"), edges, ((True, True),) * 5, None, (3,))


def luminance(colour: str) -> float:
    """Relative luminance of #RRGGBB (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


# Colours


def test_every_known_operation_has_its_own_colour_and_a_meaning_in_words() -> None:
    assert set(palette.OP_COLOURS) == set(KNOWN_OPS) == set(palette.OP_MEANING)
    assert len(set(palette.OP_COLOURS.values())) == len(KNOWN_OPS) - 1
    assert palette.colour("identity") == palette.colour("skip_connect"), "one meaning, and never in one picture"


def test_vermilion_is_skips_alone_in_every_figure() -> None:
    written = (palette.SKIP_COLOUR, palette.rgba(palette.SKIP_COLOUR, 0.86))
    for name, figure in figures.templates(KNOWN_OPS).items():
        for trace in figure["data"]:
            paints = any(colour in json.dumps(trace) for colour in written)
            assert paints == (trace["meta"].get("op") in ("skip_connect", "identity")), (name, trace["name"])
        assert palette.SKIP_COLOUR not in json.dumps(figure["layout"])


def test_text_on_paper_is_readable() -> None:
    assert contrast(palette.INK, palette.PAPER) >= 4.5
    assert contrast(palette.MUTED, palette.PAPER) >= 4.5
    assert contrast(palette.INK, palette.FILL) >= 4.5


# Layout


@pytest.mark.parametrize("cell", [conv_cell(n, ("skip_connect",)) for n in range(1, 13)] + [odd_cell()])
def test_boxes_stand_apart_inside_the_view_and_edges_run_to_the_right(cell: CellSpec) -> None:
    drawn = layout.cell_layout(cell)
    for one, other in combinations(drawn.boxes, 2):
        beside = abs(one.x - other.x) >= (one.width + other.width) / 2
        assert beside or abs(one.y - other.y) >= (one.height + other.height) / 2, (one, other)
    for box in drawn.boxes:
        assert box.width / 2 <= box.x <= drawn.width - box.width / 2
        assert box.height / 2 <= box.y <= drawn.height - box.height / 2
    assert all(line.x1 > line.x0 for line in drawn.lines)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 8, 12])
def test_every_edge_has_a_port_of_its_own_on_both_boxes(nodes: int) -> None:
    cell = conv_cell(nodes, ("skip_connect",))
    drawn = layout.cell_layout(cell)
    for state, box in enumerate(drawn.boxes):
        for side in (0, 1):
            ys = sorted(drawn.lines[e][1 + 2 * side] for e, edge in enumerate(cell.edges) if edge[side] == state)
            assert np.allclose(np.diff(ys), layout.PORT)
            assert not ys or (box.y - box.height / 2 <= ys[0] and ys[-1] <= box.y + box.height / 2)


@pytest.mark.parametrize("nodes", sorted(layout.FIXED))
def test_no_ribbon_of_a_usual_cell_runs_through_a_box_that_is_not_its_own(nodes: int) -> None:
    cell = conv_cell(nodes, ("skip_connect",))
    drawn = layout.cell_layout(cell)
    for edge, line in zip(cell.edges, drawn.lines, strict=True):
        points, _ = svg._curve(line)
        for state, box in enumerate(drawn.boxes):
            if state not in edge:
                beside = np.abs(points[:, 0] - box.x) >= box.width / 2
                above = np.abs(points[:, 1] - box.y) >= box.height / 2 + svg.WIDE / 2
                assert (beside | above).all(), (edge, state)


def test_an_unusual_topology_is_placed_with_graphviz_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with_dot = layout.positions(odd_cell())

    def missing(*_: object) -> list[str]:
        raise BadInput("export", "Graphviz", "is not installed", "")

    monkeypatch.setattr(dot, "_command", missing)
    without = layout.positions(odd_cell())
    for points in (with_dot, without):
        assert len(points) == 4
        assert all(points[s][0] < points[t][0] for s, t in odd_cell().edges)
    assert without == layout.positions(odd_cell())


def test_a_layered_drawing_keeps_its_distances_and_gives_long_links_lanes() -> None:
    links = [(0, 1), (1, 2), (2, 3), (0, 3), (0, 2)]
    sizes = [(40.0, 30.0)] * 4
    drawn = layout.layered(sizes, links, across=30, between=14)
    assert [len(route) for route in drawn.routes] == [0, 0, 0, 2, 1]
    xs = [x for x, _ in drawn.points]
    assert np.allclose(np.diff(xs), 70)
    for lane in (*drawn.routes[3], *drawn.routes[4]):
        assert all(abs(lane[1] - y) >= 3 + 15 + 14 - 1e-9 for x, y in drawn.points if abs(x - lane[0]) < 1)


def test_places_at_least_apart_are_the_nearest_possible() -> None:
    assert np.allclose(layout._apart([0, 10, 20], [5, 5]), [0, 10, 20])  # nothing to move
    assert np.allclose(layout._apart([0, 0], [10]), [-5, 5])  # both give way alike
    assert np.allclose(layout._apart([0, 0, 30], [10, 10]), [-5, 5, 30])


# SVG


def points_of(path: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in path.strip("MZ").split("L")])


def test_stripes_are_as_wide_as_their_weights_and_fill_the_ribbon() -> None:
    line = layout.Line(0, 0, 200, 80)
    weights = np.array([0.5, 0.25, 0.0009, 0.2491])
    drawn = svg.bands(line, weights)
    assert [op for op, _ in drawn] == [0, 1, 3], "a stripe too thin to see is left out"
    for op, path in drawn:
        outline = points_of(path)
        width = np.linalg.norm(outline[: svg.SAMPLES] - outline[: svg.SAMPLES - 1 : -1], axis=1)
        assert np.allclose(width, svg.WIDE * weights[op] + svg.SEAM, atol=0.015)


def test_weights_that_sum_to_more_than_one_are_divided_and_the_sum_is_said() -> None:
    line = layout.Line(0, 0, 200, 80)
    assert svg.bands(line, [1.2, 0.8]) == svg.bands(line, [0.6, 0.4])
    assert "weights sum to 2.00" in svg.edge_sentence(conv_cell(1, ("none", "skip_connect")), 0, [1.2, 0.8])


def test_a_drawing_is_well_formed_and_holds_a_hostile_title_as_text(space: SearchSpace, genotype: Genotype) -> None:
    mix = np.full(space.cells["normal"].shape, 1 / 8)
    for text in (svg.mix_svg(space.cells["normal"], mix, HOSTILE), svg.genotype_svg(genotype, HOSTILE)):
        root = ET.fromstring(text)
        assert root.find(f"{SVG}title").text == HOSTILE.replace("\x00\x0b", "")
        assert not root.findall(f".//{SVG}script")


def test_edges_that_derivation_drops_fade(space: SearchSpace) -> None:
    cell = space.cells["normal"]
    kept = [e % 2 == 0 for e in range(len(cell.edges))]
    root = ET.fromstring(svg.mix_svg(cell, np.full(cell.shape, 1 / 8), kept=kept))
    edges = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    assert [edge.get("opacity") for edge in edges] == [None if keep else "0.16" for keep in kept]


@pytest.mark.parametrize("mix", [np.full((14, 8), np.nan), np.full((14, 8), -1.0), np.ones((3, 8))])
def test_a_mix_that_cannot_be_drawn_is_refused(space: SearchSpace, mix: np.ndarray) -> None:
    with pytest.raises(BadInput):
        svg.mix_svg(space.cells["normal"], mix)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_labels_of_a_derived_cell_lie_on_nothing_else(space: SearchSpace, seed: int, upright: bool) -> None:
    random = np.random.default_rng(seed)
    mixes = {kind: random.dirichlet(np.ones(8), 14) for kind in space.cells}
    found = derive.derive(space, mixes)
    for kind in found.cells:
        root = ET.fromstring(svg.genotype_svg(found, kinds=[kind], upright=upright))
        rounded = [rect for rect in root.iter(f"{SVG}rect") if rect.get("rx") in ("13", "10")]
        boxes = [tuple(float(rect.get(k, "nan")) for k in ("x", "y", "width", "height")) for rect in rounded]
        assert len(boxes) == 8 + 6 + 1, "a label per gene, a box per state, one for the output"
        for (x, y, w, h), (a, b, c, d) in combinations(boxes, 2):
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "AmoebaNet", "DARTS_V2_RNN"])
def test_an_upright_cell_flows_downwards_and_is_hardly_wider_than_a_telephone(name: str) -> None:
    genotype = published(name).genotype
    assert float(ET.fromstring(svg.genotype_svg(genotype, upright=True)).get("width", "nan")) < 520
    for genes in genotype.cells.values():
        drawn = derived_layout(genes, BOX, 140.0, upright=True)
        for _, points in drawn.lines:
            assert all(above[1] <= below[1] for above, below in pairwise(points))
        assert max(y for _, y in drawn.states) < drawn.output[1] <= drawn.height


def test_a_node_without_genes_and_one_with_many_can_be_drawn() -> None:
    genes = CellGenes(((), (Gene("skip_connect", 0), Gene("sep_conv_3x3", 1), Gene("none", 2))), (2, 3))
    for upright in (False, True):
        ET.fromstring(svg.genotype_svg(Genotype("fair", {"normal": genes}), upright=upright))
    assert "sep_conv_3x3" in dot.genotype_dot(Genotype("fair", {"normal": genes}))


# Graphviz


def test_dot_text_labels_each_kept_edge_with_its_operation(genotype: Genotype) -> None:
    text = dot.genotype_dot(genotype)
    for cell in genotype.cells.values():
        for op in {gene.op for node in cell.nodes for gene in node}:
            assert op in text
    assert text.count("cluster_") == 2


def test_a_name_outside_the_closed_list_reaches_no_label() -> None:
    evil = Genotype("x", {"normal": CellGenes(((Gene('a"]; evil [label="', 0),),), (2,))})
    with pytest.raises(BadInput, match="unknown operation"):
        dot.genotype_dot(evil)
    with pytest.raises(BadInput, match="unknown operation"):
        svg.genotype_svg(evil)


@pytest.mark.parametrize("format,signature", [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_files_have_their_signatures(genotype: Genotype, format: str, signature: bytes) -> None:
    assert dot.render(dot.genotype_dot(genotype), format).startswith(signature)


def test_pygraphviz_draws_where_there_is_no_dot(genotype: Genotype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot.shutil, "which", lambda _: None)
    assert dot.render(dot.genotype_dot(genotype), "pdf").startswith(b"%PDF")


def test_without_any_graphviz_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot.shutil, "which", lambda _: None)
    monkeypatch.setattr(dot.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match="install"):
        dot.render("digraph {}", "svg")


def test_a_graphviz_that_hangs_or_fails_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot, "_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(30)"])
    with pytest.raises(BadInput, match="took longer"):
        dot.render("digraph {}", "svg", seconds=0.2)
    monkeypatch.setattr(dot, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit('broken')"])
    with pytest.raises(BadInput, match="broken"):
        dot.render("digraph {}", "svg")
    with pytest.raises(BadInput, match="svg, pdf, png"):
        dot.render("digraph {}", "exe")


# Tables


@pytest.mark.parametrize("count", [0, 1, 2, 299, 300, 301, 5000])
def test_thinning_keeps_the_first_and_the_last_in_order(count: int) -> None:
    kept = tables.thin(count)
    assert len(kept) == min(count, tables.POINTS)
    assert count == 0 or (kept[0] == 0 and kept[-1] == count - 1 and (np.diff(kept) > 0).all())


def test_a_running_mean_equals_the_slow_way() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=50)
    values[random.random(50) < 0.4] = np.nan
    for window in (1, 4, 60):
        slow = [values[max(0, i + 1 - window) : i + 1] for i in range(50)]
        slow = [v[np.isfinite(v)].mean() if np.isfinite(v).any() else np.nan for v in slow]
        assert np.allclose(tables.running_mean(values, window), slow, equal_nan=True)


def test_shares_of_all_operations_sum_to_one_also_for_sigmoid_weights() -> None:
    random = np.random.default_rng(0)
    assert np.allclose(tables.shares(softmax(random.normal(size=(5, 14, 8)))).sum(-1), 1)
    assert np.allclose(tables.shares(np.full((5, 14, 8), 0.9)).sum(-1), 1)


def test_collapse_over_time_is_the_collapse_of_each_record(space: SearchSpace, steps: np.ndarray) -> None:
    history = tables.collapse_history(steps, space, most=10)
    assert [step for step, _ in history] == steps["step"][tables.thin(len(steps), 10)].tolist()
    assert history[-1][1] == derive.collapse(space, tables.mixes_at(steps, -1, space))


def test_changes_of_the_derived_cell_are_where_neighbours_differ(space: SearchSpace, steps: np.ndarray) -> None:
    changes = set(tables.derived_changes(steps[:60], space))

    def genes(i: int) -> set[tuple]:
        cells = derive.derive(space, tables.mixes_at(steps, i, space)).cells
        return {(kind, node, *gene) for kind, c in cells.items() for node, kept in enumerate(c.nodes) for gene in kept}

    for i in range(1, 60):
        assert (int(steps["step"][i]) in changes) == (genes(i) != genes(i - 1))


def test_marks_are_the_edits_that_took_effect_the_alarms_and_new_stages(events: list[dict]) -> None:
    refused = applied(400, "a_lr", 9.0, 100) | {"accepted": False}
    paused = applied(401, "", 0, 101) | {"kind": "pause"}
    stage = {"n": 102, "time": 0.0, "type": "stage_started", "stage": 1, "step": 402, "reason": "a deeper net"}
    found = tables.marks([*events, refused, paused, stage])
    assert found[-1] == tables.Mark(402, "stage 2 begins at step 402", "stage")
    assert [mark.text for mark in found if mark.kind == "edit"] == ["a_lr = 0.01 at step 378"]
    assert [mark.kind for mark in found].count("alarm") == sum(event["type"] == "alarm" for event in events) > 0
    assert [mark.step for mark in found] == sorted(mark.step for mark in found)


def test_an_order_about_an_edge_calls_it_as_the_picture_does(space: SearchSpace) -> None:
    ban = applied(5, "normal-0-3", 0, 1) | {"kind": "ban", "value": "skip_connect"}
    assert [mark.text for mark in tables.marks([ban])] == ["ban skip_connect on normal-0-3 at step 5"]
    (said,) = tables.marks([ban], space)
    assert said.text == "ban skip_connect on c\u2096\u208b\u2082 to node 1, normal cell at step 5"
    (unknown,) = tables.marks([ban | {"name": "normal-9-9"}], space)
    assert "on normal-9-9" in unknown.text


def test_a_run_on_text_is_told_in_perplexities_and_one_on_images_in_accuracies() -> None:
    def told(accuracy: float, **metrics: float) -> dict:
        return {"type": "trained", "role": "derived", "accuracy": accuracy, "test_accuracy": None, "metrics": metrics}

    text = [told(0.5, valid_perplexity=5.0, test_perplexity=4.0), told(0.6, valid_perplexity=6.0)]
    assert tables.perplexities(text) == {"derived": tables.Spread(5.0, 4.0, 6.0, 2)}
    assert tables.perplexities([told(0.9)]) == {} and tables.trained([told(0.9)])["derived"].mean == 0.9


def test_values_of_settings_are_short() -> None:
    assert [short(v) for v in (0.01, 3e-5, 1e-3, 2, True, "2", 0.30000000000000004)] == [
        "0.01", "3e-5", "0.001", "2", "true", "2", "0.3",
    ]  # fmt: skip


# Figures


def test_every_trace_names_a_column_that_exists(space: SearchSpace, steps: np.ndarray, events: list[dict]) -> None:
    columns = tables.columns(steps, METRICS, events, space, "normal")
    for name, figure in figures.templates(space.cells["normal"].ops).items():
        for trace in figure["data"]:
            x, y = columns[trace["meta"]["x"]], columns[trace["meta"]["column"]]
            assert len(x) == len(y) <= tables.POINTS, (name, trace["name"])


@pytest.mark.parametrize(
    ("config", "cells", "word"),
    [
        ({"strategy": "darts"}, {"normal": {}}, "validation"),
        ({"strategy": "evaluate", "train_on": "all"}, {"normal": {}}, "test"),
        ({"strategy": "evaluate", "train_on": "split"}, {"normal": {}}, "validation"),
        ({"strategy": "evaluate", "train_on": "all"}, {"recurrent": {}}, "validation"),  # text has a part for it
    ],
)
def test_curves_are_named_after_what_they_are_measured_on(config: dict, cells: dict, word: str) -> None:
    measured = figures.measured_on({"config": config, "space": {"cells": cells}})
    assert measured == word
    for name in ("loss", "accuracy"):
        figure = figures.templates(["none"], measured)[name]
        assert {trace["name"] for trace in figure["data"]} == {"train", word}
        assert f"{word} dashed" in figure["layout"]["meta"]["about"]


def test_a_filled_figure_holds_the_numbers_and_every_mark(
    space: SearchSpace, steps: np.ndarray, events: list[dict]
) -> None:
    columns = tables.columns(steps, METRICS, events, space, "reduce", edge=3)
    templates = figures.templates(space.cells["reduce"].ops)
    before = json.dumps(templates)
    for name, template in templates.items():
        figure = figures.filled(template, columns, tables.marks(events))
        assert "a_lr = 0.01 at step 378" in [label["text"] for label in figure["layout"]["annotations"]], name
        assert 378 in [line["x0"] for line in figure["layout"]["shapes"]], name
        json.dumps(figure, allow_nan=False)
    edge = figures.filled(templates["edge"], columns)
    expected = steps["mix.reduce"][tables.thin(len(steps)), 3, :]
    assert np.allclose(np.array([trace["y"] for trace in edge["data"]]).T, expected)
    assert json.dumps(templates) == before, "filling leaves the template as it was"


def test_plotly_takes_the_filled_figures(space: SearchSpace, steps: np.ndarray, events: list[dict]) -> None:
    columns = tables.columns(steps, METRICS, events, space, "normal")
    for template in figures.templates(space.cells["normal"].ops).values():
        figures.fill(template, columns, tables.marks(events))  # plotly checks every property


def test_a_probe_that_was_never_taken_leaves_an_empty_chart(space: SearchSpace, steps: np.ndarray) -> None:
    columns = tables.columns(steps, METRICS, [], space, "normal")
    figure = figures.filled(figures.templates(space.cells["normal"].ops)["eigenvalue"], columns)
    assert figure["data"][0]["y"] == []


# What the board is told


@pytest.mark.parametrize("name", sorted(name for name, entry in SPACES.items() if "skip_connect" in entry.ops))
def test_the_boards_collapse_levels_are_those_of_derive(name: str) -> None:
    space = space_named(name)
    told = collapse_levels(space)
    assert told is not None
    random = np.random.default_rng(0)
    for lean in np.linspace(-2, 4, 30):
        toward = np.array([op == told["op"] for op in space.cells[told["kind"]].ops]) * lean
        mixes = {k: softmax(random.normal(0, 1, c.shape) + toward) for k, c in space.cells.items()}
        now = derive.collapse(space, mixes)
        assert now.derived_edges == len(told["levels"]) - 1
        assert told["levels"][now.derived_skips] == now.level


def test_the_boards_data_is_plain_json_and_ignores_what_a_foreign_link_asks_for(space: SearchSpace) -> None:
    info = {"name": "r", "space": space.to_json(), "config": {}}
    asked = {"cell": "recurrent", "edge": "normal-9-12", "show": "everything", "step": "many", "speed": 1e9}
    data = build_board_data(info, view=asked)
    json.dumps(data, allow_nan=False)
    view = data["view"]
    assert (view["cell"], view["edge"], view["show"], view["step"], view["speed"]) == ("normal", None, None, 0, 60)
    good = {"cell": "both", "edge": "reduce-1-4", "show": "derived", "step": "378"}
    assert good.items() <= (build_board_data(info, view=good)["view"] | {"step": "378"}).items()
    assert build_board_data(info, view=good)["view"]["step"] == 378


def test_a_space_without_skips_has_no_collapse_meter() -> None:
    cell = conv_cell(2, ("none", "sep_conv_3x3"))
    assert collapse_levels(SearchSpace("x", {"normal": cell})) is None


def test_pictures_and_tables_load_without_plotly_and_graphviz() -> None:
    code = "import sys, darts_core.view.figures, darts_core.view.svg, darts_core.view.dot, app.board; " \
           "print(sorted({'plotly', 'graphviz', 'streamlit', 'torch'} & set(sys.modules)))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_perplexity_chart_draws_the_floor_that_steps_record() -> None:
    from darts_core.config import preset_named
    from darts_core.view.figures import text_templates

    drawn = {trace["meta"]["column"] for trace in text_templates()["perplexity"]["data"]}
    known = preset_named("recurrent").config().step_metrics
    assert "metric:floor_perplexity" in drawn
    assert {column.partition(":")[2] for column in drawn} <= set(known)


def test_a_recurrent_cells_picture_says_how_its_output_is_made() -> None:
    from darts_core.view.svg import genotype_svg

    svg = genotype_svg(published("DARTS_V2_RNN").genotype, "V2")
    assert "mean of the states" in svg and "sigmoid" in svg and "c_{k-2}" not in svg


def test_a_recurrent_cell_gives_its_hidden_state_and_others_c_k() -> None:
    from darts_core.view.dot import genotype_dot
    from darts_core.view.svg import genotype_svg
    from darts_core.view.tikz import genotype_tikz

    for name, gives_h in (("DARTS_V2_RNN", True), ("DARTS_V2", False)):
        cell = published(name).genotype
        pictures = (genotype_dot(cell), genotype_svg(cell), genotype_tikz(cell))
        c_k = ("label=<c<SUB>k</SUB>>", '>c<tspan dy="4" font-size="10">k</tspan>', "{$c_{k}$}")
        assert [word in picture for word, picture in zip(c_k, pictures, strict=True)] == [not gives_h] * 3
        h = ("label=h]", ">h</text>", "{$h$}")
        assert [word in picture for word, picture in zip(h, pictures, strict=True)] == [gives_h] * 3
