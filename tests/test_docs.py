"""What the documentation shows to be typed is typed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import contract.check
import ertacache
from contract.case import Case
from ertacache.errors import ArgumentError
from ertacache.runtime.layout_tables import BLOCK_OUTPUTS, register_block

ADDING = (Path(__file__).parent.parent / "docs/how-to/own-model.md").read_text()


class MyBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, hidden_states, text):
        return hidden_states + torch.sin(self.inner(hidden_states)) + text, text


class MyDenoiser(torch.nn.Module):
    """A model that is in no library."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(5, 8), torch.nn.Linear(8, 4)
        self.blocks = torch.nn.ModuleList([MyBlock() for _ in range(3)])

    def forward(self, latents, timestep, prompt):
        tokens = latents.flatten(2).transpose(1, 2)
        level = torch.cos(timestep / 200).expand(*tokens.shape[:2], 1)
        hidden_states = self.first(torch.cat([tokens, level], dim=-1))
        text = torch.full_like(hidden_states, len(prompt) / 20)
        for block in self.blocks:
            hidden_states, text = block(hidden_states, text)
        return self.last(hidden_states).transpose(1, 2).unflatten(2, latents.shape[2:])


def test_a_new_family_takes_less_than_twenty_lines_and_keeps_the_contract(monkeypatch, capsys):
    loop, _, row, case = re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL)
    assert len([line for line in loop.partition("pipe = ")[0].splitlines() if line.strip()]) < 20
    names = {
        "torch": torch,
        "ertacache": ertacache,
        "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
        "MyDenoiser": MyDenoiser,
        "Case": Case,
        "CASES": {},
    }
    exec(loop, names)
    assert "10 of 20 steps computed, 20 denoiser calls" in capsys.readouterr().out
    assert names["latents"].isfinite().all()
    assert names["policy"].calibration.error < 0.05
    exec(case, names)
    monkeypatch.setitem(BLOCK_OUTPUTS, "MyBlock", None)  # undone afterwards
    exec(row, names)
    outcome = contract.check.check(names["CASES"]["MyPipeline"])
    assert outcome.works
    assert outcome.calibration == ""
    assert outcome.levels == ("velocity", "output", "hidden")


@pytest.mark.parametrize("places", [(0, 0), (1, 2), ("0", "1")])
def test_a_block_returns_hidden_states_and_text_at_two_places(places):
    with pytest.raises(ArgumentError, match="one at place 0 and one at place 1"):
        register_block("NoBlock", hidden=places[0], text=places[1])
    assert "NoBlock" not in BLOCK_OUTPUTS
