"""Seeding by `reseed` is seeding by `torch.manual_seed`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from darts_core.chance import reseed


@pytest.mark.parametrize("number", [0, 7, 2**63 - 1, -5])
def test_the_same_random_numbers_as_with_manual_seed(number: int) -> None:
    def drawn() -> list[torch.Tensor]:
        return [torch.rand(3), F.dropout(torch.ones(50), 0.5), torch.empty(2).exponential_(), torch.randperm(20)]

    torch.manual_seed(number)
    theirs = drawn()
    torch.rand(11)
    reseed(number)
    for ours, other in zip(drawn(), theirs, strict=True):
        assert torch.equal(ours, other)


def test_no_seed_is_noted_down_for_a_gpu_that_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", noted.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    reseed(3)
    assert not noted
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    reseed(4)
    assert noted == [4]
