"""A seed for each purpose. No generator outlives its use, so none is saved: a seed is a hash of what it is for."""

from __future__ import annotations

import hashlib
import operator
from functools import lru_cache


@lru_cache(maxsize=4096, typed=True)  # a step asks for the same one several times
def seed(base: int, purpose: str, *numbers: int) -> int:
    """A number below 2**63 for `purpose` ("dropout") at `numbers` (stage, epoch, index) of the run seeded `base`.

    Equal arguments give equal seeds on every machine, different ones unrelated seeds (BLAKE2b, 63 bits of it).
    """
    words = [purpose.encode(), *(str(operator.index(n)).encode() for n in (base, *numbers))]
    text = b"".join(len(word).to_bytes(4, "little") + word for word in words)  # lengths keep "a1", 2 apart from "a", 12
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
