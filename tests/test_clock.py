"""The clock waits for the accelerator where there is one."""

import pytest
import torch

from ertacache.clock import now


@pytest.mark.parametrize("present", [True, False])
def test_the_clock_is_read_when_the_accelerator_has_finished(present, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: present)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append(True))
    assert now() <= now()
    assert len(waited) == (2 if present else 0)
