"""DARTS Workbench: `load(path)` gives a trained network to use, `Choice` marks a choice in a module of your own;
everything else is imported from its module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_core.choices import Choice as Choice
    from darts_core.language_file import LanguageFile
    from darts_core.model_file import Model


def load(path: str | Path) -> Model | LanguageFile:
    """The trained network of a file (`export --format weights`, `import-pt`) or of an evaluation's run folder.

    `model(images)` gives logits, `model.transform(picture)` prepares a Pillow image, `model.classes` names the answers.
    A language model takes numbers of words, and `model.write()` writes.

    Raises:
        BadInput: there is none at `path`, or it is damaged.
    """
    from darts_core.model_file import load as load_model  # torch comes with it, so only now

    return load_model(path)


def __getattr__(name: str) -> Any:
    if name == "Choice":
        from darts_core.choices import Choice  # torch comes with it, so only now

        return Choice
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
