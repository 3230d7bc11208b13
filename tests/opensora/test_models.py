"""What the pipeline does not use: training, compilation, sizes that leave a remainder, the scheduler's bookkeeping."""

from __future__ import annotations

import pytest
import torch

from ertacache.opensora import OpenSoraError, OpenSoraRectifiedFlowScheduler, STDiT3Transformer3DModel

TINY = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4, "caption_channels": 4, "caption_length": 3}


def inputs(frames=2, rows=4, columns=6, **more):
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 4, frames, rows, columns, generator=generator),
        "timestep": torch.tensor([700.0, 300.0]),
        "encoder_hidden_states": torch.randn(2, 3, 4, generator=generator),
        "encoder_attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "height": 64,
        "width": 96,
        **more,
    }


def lively(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_training_moves_every_weight_once_the_silent_layers_speak():
    """Fresh temporal blocks pass frames through, so a fresh model does not yet know the order of its frames."""
    torch.manual_seed(0)
    model = STDiT3Transformer3DModel(**TINY)
    arguments = inputs()
    backwards = arguments | {"hidden_states": arguments["hidden_states"].flip(2)}
    with torch.no_grad():
        torch.testing.assert_close(model(**backwards).sample, model(**arguments).sample.flip(2))
        assert torch.equal(model(**arguments, fps=8.0).sample, model(**arguments, fps=24.0).sample)

    lively(model).train()
    (model(**arguments).sample ** 2).mean().backward()
    assert [name for name, weight in model.named_parameters() if not weight.grad.abs().sum() > 0] == []
    plain = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    model.enable_gradient_checkpointing()
    (model(**arguments).sample ** 2).mean().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, plain[name], msg=name)


def test_padding_is_zeros_at_the_end():
    model = lively(STDiT3Transformer3DModel(**TINY, patch_size=(2, 2, 2))).eval()
    arguments = inputs(frames=3, rows=5, columns=7)
    padded = arguments | {"hidden_states": torch.nn.functional.pad(arguments["hidden_states"], (0, 1, 0, 1, 0, 1))}
    with torch.no_grad():
        ours, whole = model(**arguments).sample, model(**padded).sample
    assert ours.shape == (2, 8, 3, 5, 7)
    torch.testing.assert_close(ours, whole[:, :, :3, :5, :7])


def test_masked_tokens_are_not_seen():
    model = lively(STDiT3Transformer3DModel(**TINY)).eval()
    arguments = inputs()
    changed = arguments["encoder_hidden_states"].clone()
    changed[0, 2] = 100.0
    with torch.no_grad():
        plain = model(**arguments).sample
        assert torch.equal(model(**arguments | {"encoder_hidden_states": changed}).sample, plain)
        assert not torch.equal(model(**arguments | {"encoder_attention_mask": None}).sample, plain)


def test_it_compiles_to_one_graph_for_a_size_and_another_for_sizes_that_leave_a_remainder():
    model = lively(STDiT3Transformer3DModel(**TINY)).eval()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for size in ((2, 4, 6), (2, 4, 6), (3, 5, 7), (4, 7, 9)):
            arguments = inputs(*size)
            torch.testing.assert_close(compiled(**arguments).sample, model(**arguments).sample)
    assert len(graphs) == 2
    torch._dynamo.reset()


def test_the_scheduler_counts_its_steps():
    scheduler = OpenSoraRectifiedFlowScheduler()
    scheduler.set_timesteps(4, height=512, width=512, num_frames=1)
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]
    assert scheduler.sigmas.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert scheduler.step_index is None
    assert scheduler.begin_index is None
    x, v = torch.tensor([3.0]), torch.tensor([4.0])
    assert scheduler.step(v, scheduler.timesteps[2], x).prev_sample.tolist() == [4.0]
    assert scheduler.step_index == 3
    scheduler.set_timesteps(2, height=512, width=512, num_frames=1)
    assert scheduler.step_index is None
    scheduler.set_begin_index(1)
    assert scheduler.step(v, scheduler.timesteps[0], x, return_dict=False)[0].tolist() == [5.0]
    wide = scheduler.__class__(use_timestep_transform=False)
    wide.set_timesteps(2)
    assert wide.step(v.double(), wide.timesteps[0], x.double()).prev_sample.dtype == torch.float64


def test_the_scheduler_refuses_what_it_cannot_know():
    scheduler = OpenSoraRectifiedFlowScheduler()
    with pytest.raises(OpenSoraError, match="size of the clip"):
        scheduler.set_timesteps(4)
    scheduler.set_timesteps(4, height=512, width=512, num_frames=1)
    with pytest.raises(OpenSoraError, match="no timestep"):
        scheduler.step(torch.zeros(1), 3, torch.zeros(1))


def test_clips_shorter_than_a_chunk_have_a_grid():
    """There the original divides by zero."""
    scheduler = OpenSoraRectifiedFlowScheduler()
    scheduler.set_timesteps(4, height=512, width=512, num_frames=8)
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]


def test_latent_frames_and_frames_agree(vae):
    counts = {1: 1, 4: 1, 5: 2, 16: 4, 17: 5, 18: 6, 24: 7, 34: 10, 51: 15}
    assert {frames: vae.latent_frames(frames) for frames in counts} == counts
    with torch.no_grad():
        latents = torch.zeros(1, 4, 6, 2, 2)
        assert vae.decode(latents, num_frames=18).sample.shape[2] == 18
        assert vae.decode(latents).sample.shape[2] == 21
        with pytest.raises(OpenSoraError, match="17 frames have 5 latent frames"):
            vae.decode(latents, num_frames=17)
