"""T-GATE: its arithmetic on numbers, its schedule by hand, and what it does to pipelines."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.rivals.base import Subject, ordered_blocks
from benchmarks.rivals.tgate import TGATE, plan
from tests.rivals.subjects import generate, generate_with, subject_of

OPEN = {"gate_step": 8, "sp_interval": 1, "fi_interval": 1, "warm_up": 2}
STRONG = {"gate_step": 6, "sp_interval": 3, "fi_interval": 2, "warm_up": 2}


@pytest.fixture(scope="module", params=["wan", "opensora"])
def subject(request) -> Subject:
    return subject_of(request.param)


def test_the_plan_by_hand():
    plans = [plan(step, **STRONG) for step in range(8)]
    assert [own for own, _ in plans] == ["compute", "compute", "keep", "keep", "reuse", "keep", "keep", "reuse"]
    assert [text for _, text in plans] == ["compute"] * 5 + ["keep"] + ["reuse"] * 2


class Told(nn.Module):
    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        return torch.zeros_like(hidden_states) if encoder_hidden_states is None else encoder_hidden_states


class WanTransformerBlock(nn.Module):
    """Adds the text; the name is what the gate goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = Told(), Told()

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return hidden_states + self.attn1(hidden_states) + self.attn2(hidden_states, encoder_hidden_states)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([WanTransformerBlock()])

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        return (self.blocks[0](hidden_states, encoder_hidden_states),)


@pytest.mark.parametrize("calls_per_step", [1, 2])
def test_past_the_gate_both_branches_give_their_mean_of_before(calls_per_step):
    toy = Toy()
    pipe = SimpleNamespace(transformer=toy, do_classifier_free_guidance=True)
    subject = Subject("toy", pipe, {"num_inference_steps": 3}, [], calls_per_step, Path("unused"))

    def step(hidden: float) -> list[float]:
        texts = torch.tensor([[10.0], [4.0]])
        if calls_per_step == 1:
            return toy(hidden_states=torch.full((2, 1), hidden), encoder_hidden_states=texts)[0].flatten().tolist()
        given = torch.full((1, 1), hidden)
        return [toy(hidden_states=given, encoder_hidden_states=text[None])[0].item() for text in texts]

    with TGATE.attach(subject, {"gate_step": 2, "sp_interval": 1, "fi_interval": 1, "warm_up": 0}, None):
        assert step(1.0) == [11, 5]
        assert step(2.0) == [12, 6]
        assert step(3.0) == [3 + 7, 3 + 7]
    assert step(3.0) == [13, 7]


def test_the_layers_that_run_are_those_of_a_schedule_by_hand(subject):
    names = {"wan": ("attn1", "attn2"), "opensora": ("attn", "cross_attn")}[subject.name]
    made, ran, hooks = -1, [], []

    def count(module: nn.Module, args: tuple) -> None:
        nonlocal made
        made += 1

    hooks.append(subject.denoiser.register_forward_pre_hook(count))
    last = ordered_blocks(subject.denoiser)[-1]
    for name in names:
        layer = getattr(last, name).to_q
        hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: ran.append((made, name))))
    generate_with(TGATE, subject, STRONG)
    for hook in hooks:
        hook.remove()

    own = {step for step, name in ran if name == names[0]}
    text = {step for step, name in ran if name == names[1]}
    if subject.name == "opensora":
        assert own == {0, 1, 2, 3, 5, 6}
        assert text == {0, 1, 2, 3, 4, 5}
    else:  # calls 2 i and 2 i + 1 belong to step i; past the gate only the first is computed
        assert own == {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12}
        assert text == set(range(12))


def test_the_unconditional_branch_ends_at_the_gate(subject):
    batches: list[int] = []
    embedding = subject.denoiser.patch_embed if subject.name == "opensora" else subject.denoiser.patch_embedding
    hook = embedding.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    generate_with(TGATE, subject, STRONG)
    hook.remove()
    assert batches == ([2] * 6 + [1] * 2 if subject.name == "opensora" else [1] * (2 * 6 + 2))


def test_a_gate_after_the_last_step_changes_nothing(subject):
    assert torch.equal(generate_with(TGATE, subject, OPEN), generate(subject))


@pytest.mark.parametrize("name", ["flux", "cogvideox"])
def test_joint_attention_is_refused(name):
    refused = subject_of(name)
    assert "joint attention" in TGATE.refuses(refused)
    assert TGATE.knobs(refused) == []


def test_cross_attention_is_not_refused(subject):
    assert TGATE.refuses(subject) == ""
    assert [knobs["gate_step"] for knobs in TGATE.knobs(subject)] == [7, 6, 5, 3, 2, 1, 1, 1]
