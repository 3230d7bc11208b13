"""LPIPS and the CLIP score: for real where their weights are, else what they say without."""

import importlib.util

import pytest
import torch

from ertacache import zoo
from ertacache.errors import MetricError
from ertacache.evaluation.perceptual import clip_score, lpips, perceptual_metrics


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """A CLIP model of random weights, with the embedded pipeline's tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = zoo.load("flux").pipe.tokenizer
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    words |= {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config={**sizes, **words}, vision_config=vision, projection_dim=16))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    picture = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(picture, tokenizer).save_pretrained(folder)
    return folder


def test_the_clip_score_is_the_cosine_of_the_models_own_embeddings(small_clip):
    from transformers import CLIPModel, CLIPTokenizer

    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    score = clip_score(picture, "a red star", str(small_clip))
    model, tokenizer = CLIPModel.from_pretrained(small_clip), CLIPTokenizer.from_pretrained(small_clip)
    mean, std = torch.tensor([[0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758]])[..., None, None]
    pixels = ((picture * 255).round() / 255 - mean) / std
    with torch.no_grad():
        out = model(pixel_values=pixels[None], **tokenizer(["a red star"], return_tensors="pt"))
    cosine = float(out.image_embeds[0] @ out.text_embeds[0])  # both of length 1
    assert cosine > 0.01
    assert score == pytest.approx(100 * cosine, abs=1e-2)
    clip = picture.expand(1, 4, 3, 32, 32)
    assert clip_score(clip, "a red star", str(small_clip)) == pytest.approx(score, abs=1e-4)


def test_what_is_missing_is_said_with_the_cure(tmp_path):
    with pytest.raises(MetricError, match="CLIPModel and its processor"):
        clip_score(torch.rand(3, 32, 32), "a red star", str(tmp_path))
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(MetricError, match=r"ertacache\[perceptual\]"):
            lpips(torch.rand(3, 64, 64), torch.rand(3, 64, 64))


def test_lpips_is_zero_for_equal_pictures_and_grows_with_noise():
    if "lpips" not in perceptual_metrics():
        pytest.skip("torchvision or the weights of its AlexNet are not on this machine")
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    assert lpips(picture, picture) == pytest.approx(0, abs=1e-6)
    assert 0 < lpips(picture + 0.05 * noise, picture) < lpips(picture + 0.2 * noise, picture)
