"""The clock waits for the accelerator where there is one."""

import time

import pytest
import torch

from ertacache.clock import now, work


@pytest.mark.parametrize("present", [True, False])
def test_the_clock_is_read_when_the_accelerator_has_finished(present, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: present)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append(True))
    assert now() <= now()
    assert len(waited) == (2 if present else 0)


def test_ratios_are_of_what_this_process_works_where_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    before = work()
    time.sleep(0.3)
    assert work() - before < 0.15
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    before = work()
    time.sleep(0.3)
    assert work() - before >= 0.3
