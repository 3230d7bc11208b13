"""The pipeline runs end to end, says no to what makes no sense, and is the same after a round trip to disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ertacache.opensora import OpenSoraError, OpenSoraPipeline

SMALL = {
    "height": 12,
    "width": 16,
    "num_frames": 5,
    "num_inference_steps": 2,
    "output_type": "latent",
    "clean_caption": False,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_seed_decides(pipe):
    first, again = (pipe("a red ball", generator=seeded(), **SMALL).frames for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, pipe("a red ball", generator=seeded(1), **SMALL).frames)
    assert not torch.equal(first, pipe("a ball rises", generator=seeded(), **SMALL).frames)


def test_each_prompt_and_each_clip_is_its_own(pipe):
    """Two prompts, two clips each, are in order of prompts, and what each would be alone."""
    noise = torch.randn(4, 4, 2, 6, 8, generator=seeded())
    prompts = ["a red ball", "ball rises"]
    together = pipe(prompts, num_videos_per_prompt=2, latents=noise, **SMALL).frames
    for i in range(4):
        alone = pipe(prompts[i // 2], latents=noise[i : i + 1], **SMALL).frames
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_guidance(pipe):
    """Off, it takes one branch; on, both in one call; a negative prompt takes the place of the null caption."""
    seen = []
    pipe.transformer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)

    def run(**arguments):
        seen.clear()
        return pipe("a red ball rises", generator=seeded(), **SMALL, **arguments).frames

    off = run(guidance_scale=1.0)
    assert [len(call["hidden_states"]) for call in seen] == [1, 1]
    on = run(guidance_scale=7.0)
    assert [len(call["hidden_states"]) for call in seen] == [2, 2]
    negative, positive = seen[0]["encoder_hidden_states"]
    assert torch.equal(negative, pipe.transformer.null_caption)
    assert seen[0]["encoder_attention_mask"].tolist() == [[1] * 5 + [0] * 7] * 2
    blurry = run(negative_prompt="blurry")
    assert seen[0]["encoder_attention_mask"].tolist() == [[1] * 2 + [0] * 10, [1] * 5 + [0] * 7]
    assert torch.equal(seen[0]["encoder_hidden_states"][1], positive)
    assert len({tuple(frames.flatten().tolist()) for frames in (off, on, blurry)}) == 3


def test_output_types(pipe):
    def run(output_type, **arguments):
        return pipe("a ball", generator=seeded(), **SMALL | {"output_type": output_type}, **arguments)

    array, tensor = run("np").frames, run("pt").frames
    assert array.shape == (1, 5, 12, 16, 3)
    assert tensor.shape == (1, 5, 3, 12, 16)
    np.testing.assert_allclose(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    assert 0 <= array.min() < array.max() <= 1
    (images,) = run("pil").frames
    np.testing.assert_array_equal(np.asarray(images[4]), (array[0, 4] * 255).round())
    (bare,) = run("pt", return_dict=False)
    assert torch.equal(bare, tensor)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((12, 16, 1), (1, 4, 1, 6, 8)), ((13, 17, 17), (1, 4, 5, 6, 8)), ((12, 10, 20), (1, 4, 6, 6, 5))],
)
def test_sizes_of_latents(pipe, size, shape):
    """A still, one whole chunk of a size that leaves pixels over, and a broken chunk of an odd width."""
    height, width, num_frames = size
    arguments = SMALL | {"height": height, "width": width, "num_frames": num_frames}
    assert pipe("a ball", **arguments).frames.shape == shape
    clip = pipe("a ball", **arguments | {"output_type": "pt"}).frames
    assert clip.shape == (1, num_frames, 3, 2 * shape[3], 2 * shape[4])
    assert clip.isfinite().all()


def test_a_callback_sees_the_loop_and_interrupts_it(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), pipe.num_timesteps, sorted(tensors)))
        pipe._interrupt = step == 1
        return {"latents": torch.full_like(tensors["latents"], step)}

    arguments = SMALL | {"num_inference_steps": 4, "callback_on_step_end": callback}
    names = ["latents", "prompt_embeds"]
    frames = pipe("a ball", **arguments, callback_on_step_end_tensor_inputs=names).frames
    assert [step for step, *_ in seen] == [0, 1]
    assert seen[0][1:] == (pytest.approx(1000), 4, names)
    assert (frames == 1).all()


def test_a_callback_ends_guidance(pipe):
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["hidden_states"])), with_kwargs=True
    )

    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale = 0.0
        return {name: tensor[-1:] for name, tensor in tensors.items()}

    tensors = ["prompt_embeds", "prompt_attention_mask"]
    pipe("a ball", callback_on_step_end=callback, callback_on_step_end_tensor_inputs=tensors, **SMALL)
    assert seen == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of prompt and prompt_embeds"),
        ({"prompt": "a", "prompt_embeds": torch.zeros(1, 3, 16)}, "one of prompt and prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 3, 16)}, "go together"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "as many negative prompts"),
        (
            {
                "prompt": ["a", "b"],
                "negative_prompt_embeds": torch.zeros(1, 3, 16),
                "negative_prompt_attention_mask": torch.ones(1, 3),
            },
            "as many negative prompts",
        ),
        ({"prompt": "a", "num_frames": 0}, "too small"),
        ({"prompt": "a", "height": 1}, "too small"),
        ({"prompt": "a", "output_type": "mp4"}, "unknown output_type"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, "cannot be given"),
        ({"prompt": "a", "latents": torch.zeros(1, 4, 1, 6, 8)}, r"shape is \(1, 4, 2, 6, 8\)"),
        ({"prompt": "a", "max_sequence_length": 13}, "max_sequence_length=12 or less"),
    ],
)
def test_senseless_arguments_are_refused(pipe, arguments, message):
    with pytest.raises(OpenSoraError, match=message):
        pipe(**SMALL | arguments)


def test_round_trip_to_disk(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "OpenSoraPipeline"
    assert index["transformer"] == ["ertacache.opensora.transformer", "STDiT3Transformer3DModel"]
    loaded = OpenSoraPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    for name in ("transformer", "vae", "text_encoder"):
        saved, restored = getattr(pipe, name).state_dict(), getattr(loaded, name).state_dict()
        assert saved.keys() == restored.keys()
        assert all(torch.equal(saved[key], restored[key]) for key in saved)
    arguments = SMALL | {"output_type": "pt"}
    outputs = [each("a red ball", **arguments, generator=seeded()).frames for each in (pipe, loaded)]
    assert torch.equal(*outputs)
