"""The converter consumes every published key at full size, and refuses what it does not know."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ertacache.opensora import AutoencoderOpenSora, OpenSoraError, STDiT3Transformer3DModel, load_opensora
from ertacache.opensora.convert import AUTOENCODER_RULES, TRANSFORMER_RULES, convert_transformer, renamed
from ertacache.opensora.loading import read_checkpoint


@pytest.mark.parametrize(
    ("name", "model_class", "rules", "computed"),
    [
        ("stdit", STDiT3Transformer3DModel, TRANSFORMER_RULES, {"rope.freqs"}),
        ("vae", AutoencoderOpenSora, AUTOENCODER_RULES, set()),
    ],
)
def test_defaults_are_the_published_models(name, model_class, rules, computed, published_keys):
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in model_class().state_dict().items()}
        tensors = {key: torch.empty(shape) for key, shape in published_keys[name].items() if key not in computed}
    assert computed <= published_keys[name].keys()
    ours, unknown = renamed(tensors, rules)
    assert unknown == []
    assert {key: tensor.shape for key, (_, tensor) in ours.items()} == expected
    assert {key for key, _ in ours.values()} == tensors.keys()


def test_unknown_missing_and_misshapen_tensors_are_listed(published):
    config, weights = read_checkpoint(published / "stdit")
    weights["spatial_blocks.7.attn.qkv.weight"] = weights["spatial_blocks.0.attn.qkv.weight"]
    weights["surprise"] = weights.pop("t_block.1.bias")
    weights["y_embedder.y_embedding"] = weights["y_embedder.y_embedding"][:5]
    with pytest.raises(OpenSoraError) as raised:
        convert_transformer(config, weights)
    given = raised.value.given
    assert given.startswith("unknown keys: ['surprise', 'spatial_blocks.7.attn.qkv.weight'")
    assert "missing, by our names: ['time_modulation.bias']" in given
    assert "y_embedder.y_embedding (5, 16) for null_caption (12, 16)" in given


def test_computed_frequencies_are_compared(published):
    config, weights = read_checkpoint(published / "stdit")
    convert_transformer(config, weights | {"rope.freqs": weights["rope.freqs"].bfloat16()})
    convert_transformer(config, {key: tensor for key, tensor in weights.items() if key != "rope.freqs"})
    with pytest.raises(OpenSoraError, match=r"rope\.freqs"):
        convert_transformer(config, weights | {"rope.freqs": 2 * weights["rope.freqs"]})
    positions = {"pos_embed.inv_freq": torch.ones(8)}
    with pytest.raises(OpenSoraError, match=r"pos_embed\.inv_freq"):
        convert_transformer(config, weights | positions)


def save_text(text, folder):
    tokenizer, encoder = text
    tokenizer.save_pretrained(folder)
    encoder.save_pretrained(folder)
    return folder


def test_a_pipeline_from_published_folders(published, text, tmp_path, transformer, vae):
    """Also with older names in the spatial part, and with tensors spread over files."""
    weights = published / "vae/model.safetensors"
    tensors = load_file(weights)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        tensors = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    weights.unlink()
    parts = {f"model-{i}.safetensors": dict(sorted(tensors.items())[i::2]) for i in range(2)}
    for name, part in parts.items():
        save_file({key: tensor.clone() for key, tensor in part.items()}, published / "vae" / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (published / "vae/model.safetensors.index.json").write_text(json.dumps(index))

    source = save_text(text, tmp_path / "text")
    pipe = load_opensora(published / "stdit", published / "vae", source, dtype=torch.float32)
    for ours, expected in ((pipe.transformer, transformer), (pipe.vae, vae)):
        assert dict(ours.config) == dict(expected.config)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    arguments = {"num_frames": 1, "height": 12, "width": 16, "num_inference_steps": 1, "clean_caption": False}
    assert pipe("a red ball", **arguments, output_type="pt").frames.shape == (1, 1, 3, 12, 16)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(OpenSoraError, match="no checkpoint here"):
        read_checkpoint(tmp_path)
