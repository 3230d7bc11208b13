"""Pictures to begin with, and LoRAs, from the shell."""

import hashlib
import json

import pytest
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image

from ertacache import Policy, zoo
from ertacache.cli.input_image import taking_image
from ertacache.cli.loras import Lora
from ertacache.errors import ArgumentError
from tests.cli.running import refused, run

SMALL = ["--set", "height=32", "--set", "width=32", "--set", "max_sequence_length=16"]
QUICK = ["--steps", 8, "--check", 0, *SMALL]


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    model = zoo.load("emoji").pipe.transformer
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("loras")
    FluxPipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(model), weight_name="style-1.safetensors"
    )
    return folder / "style-1.safetensors"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGBA", (40, 32), "red").save(path)
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red star\na blue ring\n")
    return path


def test_a_policy_is_calibrated_with_a_lora_and_followed_without_it_only_if_asked(folder, lora, prompts, tmp_path):
    out, star = (
        tmp_path / "policy.safetensors",
        ["generate", folder, "a red star", "--out", tmp_path / "star.png", *SMALL],
    )
    done = run("calibrate", folder, "--prompts", prompts, "--lora", f"{lora}:0.5", *QUICK, "--out", out)
    assert done.exit_code == 0, done.output
    assert Policy.load(out).origin.denoisers["transformer"].adapters == ("style_1 x 0.5",)
    done = run(*star, "--policy", out, "--lora", f"{lora}:0.5")
    assert done.exit_code == 0, done.output
    assert "adapters" not in done.output
    assert "transferred(policy, adapters='any')" in refused(*star, "--policy", out, "--lora", lora)
    done = run(*star, "--policy", out, "--lora", lora, "--any-lora")
    assert done.exit_code == 0, done.output
    assert "['style_1 x 1'] now" in done.output
    judged = ["evaluate", folder, out, "--prompts", prompts, "--lora", f"{lora}:0.5", *SMALL, "--limit", 1, "--show", 0]
    done = run(*judged, "--out", tmp_path / "evaluation.json", "--work", tmp_path / "work")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["loras"] == [{"place": str(lora), "scale": 0.5, "sha256": digest_of(lora)}]


def test_what_is_no_lora_for_this_pipeline_is_refused(folder, lora, tmp_path):
    (tmp_path / "broken.safetensors").write_text("no tensors")
    star = ["generate", folder, "a red star", "--steps", 2, *SMALL, "--lora"]
    assert "the LoRA cannot be loaded" in refused(*star, tmp_path / "broken.safetensors")
    assert "the LoRA cannot be loaded" in refused(*star, tmp_path / "nowhere")
    assert "the same name" in refused(*star, lora, "--lora", f"{lora}:2")
    assert "PATH_OR_REPO:SCALE" in refused(*star, ":2")


@pytest.mark.parametrize(
    ("text", "place", "scale"),
    [("a/b", "a/b", 1), ("a/b:0.5", "a/b", 0.5), ("c:/d.safetensors", "c:/d.safetensors", 1), ("x:-1", "x", -1)],
)
def test_a_scale_follows_the_last_colon(text, place, scale):
    assert Lora.parsed(text) == Lora(place, scale)


def test_a_picture_turns_text_to_image_into_image_to_image(folder, picture, prompts, tmp_path):
    out, star = tmp_path / "policy.safetensors", tmp_path / "star.png"
    begun = ["--image", picture, "--set", "strength=0.75"]
    done = run("calibrate", folder, "--prompts", prompts, *begun, *QUICK, "--out", out)
    assert done.exit_code == 0, done.output
    policy = Policy.load(out)
    assert (policy.origin.pipeline_class, policy.first_step) == ("FluxImg2ImgPipeline", 2)
    done = run("generate", folder, "a red star", "--policy", out, *begun, *SMALL, "--out", star)
    assert done.exit_code == 0, done.output
    assert "3 of 6 steps computed" in done.output
    evaluated = ["evaluate", folder, out, "--prompts", prompts, *begun, *SMALL, "--quick", "--show", 0]
    figures, work = tmp_path / "evaluation.json", tmp_path / "work"
    for _ in range(2):  # the second one finds what the first one measured
        done = run(*evaluated, "--out", figures, "--work", work)
        assert done.exit_code == 0, done.output
        assert len(list(work.iterdir())) == 1
    written = json.loads(figures.read_text())
    assert [row["name"] for row in written["rows"]] == ["policy", "fewer steps"]
    assert written["image"] == {"file": "red.png", "sha256": digest_of(picture)}
    assert (written["loras"], written["own_arguments"]) == ([], [])


def test_in_bulk_every_prompt_begins_with_the_picture_and_an_interrupted_run_goes_on(
    folder, picture, prompts, tmp_path
):
    asked = [
        "generate",
        folder,
        "--prompts",
        prompts,
        "--image",
        picture,
        "--steps",
        2,
        *SMALL,
        "--out",
        tmp_path / "made",
    ]
    done = run(*asked)
    assert done.exit_code == 0, done.output
    assert "wrote 2 files" in done.output
    assert "2 of 2 are there already" in run(*asked).output


def test_what_is_no_picture_is_refused(folder, prompts, tmp_path):
    star = ["generate", folder, "a red star", "--steps", 2, *SMALL, "--image"]
    assert "the picture cannot be read" in refused(*star, prompts)
    assert "No such file" in refused(*star, tmp_path / "none.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    assert f"truncated (given: {tmp_path / 'cut.png'})" in refused(*star, tmp_path / "cut.png")
    with pytest.raises(ArgumentError, match="takes no picture"):
        taking_image(zoo.load("wan").pipe)


def test_json_lines_give_each_prompt_its_picture(folder, picture, tmp_path):
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    lines = [{"prompt": "a red star", "image": str(picture)}, {"prompt": "a blue ring", "image": "blue.png"}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    out, strength = tmp_path / "policy.safetensors", ["--set", "strength=0.5"]
    done = run("calibrate", folder, "--prompts", file, *strength, *QUICK, "--out", out)
    assert done.exit_code == 0, done.output
    assert Policy.load(out).origin.pipeline_class == "FluxImg2ImgPipeline"
    made = ["generate", folder, "--prompts", file, *strength, *SMALL, "--steps", 4, "--out", tmp_path / "made"]
    done = run(*made)
    assert done.exit_code == 0, done.output
    red, blue = (
        Image.open(tmp_path / f"made/0000{k}.png").convert("RGB").resize((1, 1)).getpixel((0, 0)) for k in (0, 1)
    )
    assert red[0] > red[2]  # strength 0.5 keeps the colour
    assert blue[2] > blue[0]
    lines[1]["image"] = lines[0]["image"]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert "made in another way" in refused(*made)
    evaluated = [
        "evaluate",
        folder,
        out,
        "--prompts",
        file,
        *strength,
        *SMALL,
        "--show",
        0,
        "--work",
        tmp_path / "work",
    ]
    done = run(*evaluated, "--out", tmp_path / "evaluation.json")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["prompts"] == ["a red star", "a blue ring"]
    assert written["own_arguments"] == [{"image": {"file": "red.png", "sha256": digest_of(picture)}}] * 2
    assert written["image"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a red star", "prompt 1 is not a JSON object"),
        ('{"image": "a.png"}', "prompt 1 is not a JSON object"),
        ('{"prompt": "a"}\n{"prompt": "b", "image": "p.png"}', "some prompts have a picture"),
        ('{"prompt": "a", "image": "none.png"}', "No such file"),
        ('{"prompt": "a", "image": ["p.png"]}', "the image of prompt 1 is not a path"),
        ('{"prompt": "a"}\n{"prompt": "b", "seed": 5}', "prompt 2 has 'seed', which the command itself gives"),
        ('{"prompt": "a", "num_inference_steps": 5}', "prompt 1 has 'num_inference_steps'"),
    ],
)
def test_json_lines_that_are_none_are_refused(text, told, picture, tmp_path):
    (tmp_path / "p.png").write_bytes(picture.read_bytes())
    (tmp_path / "prompts.jsonl").write_text(text)
    assert told in refused("calibrate", "zoo:emoji", "--prompts", tmp_path / "prompts.jsonl")
