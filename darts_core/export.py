"""A derived cell as files: `EXPORTS[format](genotype, title) -> bytes`. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from darts_core.errors import unknown
from darts_core.genotype import Genotype
from darts_core.view import dot, svg

Export = Callable[[Genotype, str], bytes]

EXPORTS: Mapping[str, Export] = {
    "json": lambda genotype, title: genotype.dumps().encode(),
    "text": lambda genotype, title: (genotype.text() + "\n").encode(),
    "svg": lambda genotype, title: svg.genotype_svg(genotype, title).encode(),
    "pdf": lambda genotype, title: dot.render(dot.genotype_dot(genotype), "pdf"),
    "png": lambda genotype, title: dot.render(dot.genotype_dot(genotype), "png"),
    "dot": lambda genotype, title: dot.genotype_dot(genotype).encode(),
}
SUFFIXES: Mapping[str, str] = {name: "py.txt" if name == "text" else name for name in EXPORTS}
MEDIA: Mapping[str, str] = {
    "json": "application/json",
    "text": "text/plain",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "png": "image/png",
    "dot": "text/vnd.graphviz",
}


def export(genotype: Genotype, format: str, title: str = "") -> bytes:
    """The file's bytes.

    Raises:
        BadInput: the format is unknown, cannot hold this cell, or Graphviz is missing.
    """
    if format not in EXPORTS:
        raise unknown("", "format", format, EXPORTS)
    return EXPORTS[format](genotype, title)
