"""Images in memory, and the plan that makes batches of them.

`load` reads a data set into an `Images` value (uint8 tensors, checked); `Plan` turns it into batches that are pure
functions of (seed, epoch, index). Files: `images` (the value, its checks and options), `files` (a folder, an .npz),
`sources` (`DATASETS` and `load`), `plan` (order, splits, augmentation), `stream` (the same for
images that stay on the disk).
"""

from __future__ import annotations

from darts_core.data.images import Images
from darts_core.data.plan import Plan
from darts_core.data.sources import DATASETS, Source, load
from darts_core.data.stream import Stream

__all__ = ["DATASETS", "Images", "Plan", "Source", "Stream", "load"]
