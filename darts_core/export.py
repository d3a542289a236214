"""Results as files: `EXPORTS[format]` says what each format is made of, what it is called and who writes it. No torch.

A format is made of one of three things: a derived cell ("cell"), a recorded run ("run"), or a network with its weights
("network"). Those of a network need torch: `darts_core/network_files.py` writes them, and a page has them made by
`python -m darts_core export`. A new format is one line here and a function that returns bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from darts_core.errors import BadInput, unknown
from darts_core.genotype import Genotype
from darts_core.runs import RunReader, export_run
from darts_core.view import dot, movie, report, svg, tikz


@dataclass(frozen=True)
class Source:
    """What an export is made of: a cell, what to call it, and, where there is one, the run it comes from."""

    genotype: Genotype
    title: str = ""
    run: RunReader | None = None

    def the_run(self, format: str) -> RunReader:
        """The run.

        Raises:
            BadInput: there is none, only a genotype.
        """
        if self.run is None:
            raise BadInput("export", "format", f"{format} shows a whole run, and this is only a cell", "name a run")
        return self.run


@dataclass(frozen=True)
class Format:
    """One line of the table: for a button, a file name, a download, and the function that writes it."""

    title: str
    suffix: str  # of the file, without its point
    media: str  # MIME type
    doc: str  # one sentence
    made_of: Literal["cell", "run", "network"] = "cell"
    write: Callable[[Source], bytes] | None = None  # None: made of a network, see `network_files`


EXPORTS: Mapping[str, Format] = {
    "json": Format(
        "Genotype (JSON)", "json", "application/json", "The cell as data; this program reads it back.",
        write=lambda source: source.genotype.dumps().encode(),
    ),
    "text": Format(
        "DARTS text", "py.txt", "text/plain", "The form of the DARTS authors, Genotype(normal=[...], ...).",
        write=lambda source: (source.genotype.text() + "\n").encode(),
    ),
    "svg": Format(
        "SVG", "svg", "image/svg+xml", "The cell as a picture that scales.",
        write=lambda source: svg.genotype_svg(source.genotype, source.title).encode(),
    ),
    "pdf": Format(
        "PDF", "pdf", "application/pdf", "The cell drawn by Graphviz.",
        write=lambda source: dot.render(dot.genotype_dot(source.genotype), "pdf"),
    ),
    "png": Format(
        "PNG", "png", "image/png", "The cell drawn by Graphviz, as pixels.",
        write=lambda source: dot.render(dot.genotype_dot(source.genotype), "png"),
    ),
    "dot": Format(
        "DOT", "dot", "text/vnd.graphviz", "The cell for Graphviz.",
        write=lambda source: dot.genotype_dot(source.genotype).encode(),
    ),
    "tikz": Format(
        "TikZ", "tex", "text/x-tex", "The cell for a LaTeX document.",
        write=lambda source: tikz.genotype_tikz(source.genotype, source.title).encode(),
    ),
    "gif": Format(
        "Animated GIF", "gif", "image/gif", "The mixture of every edge over the search.", "run",
        lambda source: movie.gif(source.the_run("gif")),
    ),
    "mp4": Format(
        "MP4", "mp4", "video/mp4", "The same as a film; needs ffmpeg or imageio-ffmpeg.", "run",
        lambda source: movie.mp4(source.the_run("mp4")),
    ),
    "html": Format(
        "HTML report", "html", "text/html", "One file with scrubber, ribbons and charts; needs no server.", "run",
        lambda source: report.report(source.the_run("html")),
    ),
    "zip": Format(
        "Run (zip)", "zip", "application/zip", "The recorded run, for another machine.", "run",
        lambda source: export_run(source.the_run("zip").root, source.the_run("zip").name),
    ),
    "py": Format(
        "model.py", "py", "text/x-python", "The network as one file that needs torch alone.", "network",
    ),
    "weights": Format(
        "Weights (safetensors)", "safetensors", "application/octet-stream", "The trained network's numbers.", "network",
    ),
    "onnx": Format(
        "ONNX", "onnx", "application/octet-stream", "The trained network for other programs.", "network",
    ),
    "pt2": Format(
        "torch.export", "pt2", "application/octet-stream", "The trained network as a program of torch.", "network",
    ),
}  # fmt: skip
SUFFIXES: Mapping[str, str] = {name: format.suffix for name, format in EXPORTS.items()}
MEDIA: Mapping[str, str] = {name: format.media for name, format in EXPORTS.items()}


def format_named(name: str) -> Format:
    """The format called `name`.

    Raises:
        BadInput: there is none.
    """
    if name not in EXPORTS:
        raise unknown("", "format", name, EXPORTS)
    return EXPORTS[name]


def export(genotype: Genotype, format: str, title: str = "", run: RunReader | None = None) -> bytes:
    """The file's bytes, for formats made of a cell or of a run.

    Raises:
        BadInput: the format is unknown, cannot hold this cell, needs a run or torch, or Graphviz is missing.
    """
    write = format_named(format).write
    if write is None:
        fix = f"python -m darts_core export --format {format} makes it"
        raise BadInput("export", "format", f"{format} is made of a network and needs torch", fix)
    return write(Source(genotype, title, run))
