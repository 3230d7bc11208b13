"""Policies on the Hub, by its real client, against a stand-in on 127.0.0.1; nothing here reaches further."""

from __future__ import annotations

import dataclasses
import getpass
import inspect
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

from ertacache import Policy
from ertacache.cli import app
from ertacache.errors import PolicyFileError, SharingError
from ertacache.evaluation.evaluate import as_json, variants_of
from ertacache.evaluation.harness import Measured
from ertacache.sharing import pretrained, push
from ertacache.sharing.policy_methods import offer_on
from tests.hub import Hub, serving
from tests.test_policy import ORIGIN, POLICIES, RECORD

POLICY = dataclasses.replace(
    POLICIES["calibrated"], calibration=dataclasses.replace(RECORD, step_errors=(0.0, 0.1, 0.1, 0.1, 0.0123))
)
PROMPTS = [f"a red star, number {k}" for k in range(10)]
MINE = {"token": "hf_mine"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No token, cache or proxy of this machine, and no name or address looked up but 127.0.0.1."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"), raising=False)
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its transfers are not Python's, and need its servers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []
    look_up = socket.getaddrinfo

    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1"):
            asked.append(host)
            raise OSError(f"{host} is outside of this test")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    huggingface_hub.close_session()  # one that an earlier test opened would keep its proxies
    yield home
    huggingface_hub.close_session()
    assert asked == []


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as running:
        yield running


@pytest.fixture
def away() -> str:
    """The address of a Hub that is down."""
    with serving() as running:
        return running.endpoint


def evaluation(path: Path, policies: dict[str, Policy], *, count: int = 10, **about: Any) -> Path:
    """Figures as `ertacache evaluate` writes them: row r has a PSNR of 30 + r and a bit, differing by prompt."""
    rows = [
        Measured(
            variant.name,
            peak_bytes=0,
            flops=[0.8] * count,
            speedup=[1.5 + k / 100 for k in range(count)],
            call_speedup=[1.2] * count,
            psnr=[30 + r + k / 100 for k in range(count)],
            ssim=[0.9] * count,
        )
        for r, variant in enumerate(variants_of(policies))
    ]
    told = {
        "model": "someone/some-model",
        "policies": [f"/home/{getpass.getuser()}/{name}.safetensors" for name in policies],
        "arguments": {"guidance_scale": 3.5, "negative_prompt": "4", "height": 64},
        "prompts": PROMPTS[:count],
        "fingerprints": {name: policy.fingerprint for name, policy in policies.items()},
        "device": "cuda:1",
        "dtype": "bfloat16",
        "seed": 7,
    }
    path.write_text(json.dumps(as_json(rows, **{**told, **about})))
    return path


def card_of(hub: Hub, name: str = "me/policy") -> ModelCard:
    return ModelCard(hub.files(name)["README.md"].decode())


def command_of(card: ModelCard) -> list[str]:
    (command,) = re.findall(r"```sh\n(.*?)\n```", card.text, re.DOTALL)
    return shlex.split(command)


@pytest.mark.parametrize("name", POLICIES)
def test_what_was_pushed_is_what_is_loaded(name: str, hub: Hub, tmp_path: Path) -> None:
    address = POLICIES[name].push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    assert address.startswith(f"{hub.endpoint}/me/policy/commit/")
    loaded = Policy.from_pretrained("me/policy", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert loaded.fingerprint == POLICIES[name].fingerprint


def test_a_card_without_figures_says_so_and_how_to_measure(hub: Hub) -> None:
    POLICY.push_to_hub("me/policy", base_model="someone/some-model", endpoint=hub.endpoint, **MINE)
    assert set(hub.files("me/policy")) == {".gitattributes", "README.md", "policy.safetensors"}
    card = card_of(hub)
    assert card.data.library_name == "ertacache"
    assert card.data.base_model == "someone/some-model"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert card.data.tags == ["ertacache", "diffusers"]
    assert 'FluxPipeline.from_pretrained("someone/some-model")' in card.text
    assert 'Policy.from_pretrained("me/policy")' in card.text
    assert "num_inference_steps=5, guidance_scale=3.5, true_cfg_scale=1.0)" in card.text
    assert "| computed steps | 0, 2, 3, 4 |" in card.text
    assert "- Taylor weights were kept" in card.text
    assert "Not measured." in card.text
    assert command_of(card)[:4] == ["ertacache", "evaluate", "someone/some-model", "policy.safetensors"]


def test_a_call_as_the_card_shows_it_has_no_guidance_that_pipelines_of_one_expert_refuse(hub: Hub) -> None:
    for second, shown in ((5.0, ""), (3.0, ", guidance_scale_2=3.0")):
        guidance = {"guidance_scale": 5.0, "guidance_scale_2": second}
        policy = dataclasses.replace(POLICY, origin=dataclasses.replace(ORIGIN, guidance=guidance))
        policy.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
        assert f"num_inference_steps=5, guidance_scale=5.0{shown})" in card_of(hub).text


def test_a_card_by_hand_claims_nothing(hub: Hub) -> None:
    POLICIES["reuse"].push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    card = card_of(hub)
    assert card.data.base_model is None
    assert "written by hand" in card.text
    assert "MODEL" in command_of(card)


def test_a_card_shows_what_was_measured_with_intervals(hub: Hub, tmp_path: Path) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY})
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    card = card_of(hub)
    assert card.data.base_model == "someone/some-model"  # the one that was measured
    rows = re.findall(r"^\| (this policy|fewer steps.*?) \| (\S+)x \| (\S+) \((\S+) to (\S+)\) \|", card.text, re.M)
    assert [row[0] for row in rows] == ["this policy", "fewer steps", "fewer steps, sub-grid"]
    assert [row[2] for row in rows] == ["30.0", "31.0", "32.0"]
    assert all(float(low) <= float(mean) <= float(high) for _, _, mean, low, high in rows)
    assert {row[1] for row in rows} == {"1.54"}  # the median of 1.50 .. 1.59
    assert 'from_pretrained("someone/some-model", dtype=torch.bfloat16).to("cuda")' in card.text
    assert "guidance_scale=3.5, true_cfg_scale=1.0, negative_prompt='4', height=64)" in card.text
    assert "(cuda, bfloat16)" in card.text
    assert "are a check" not in card.text
    published = json.loads(hub.files("me/policy")["evaluation.json"])
    assert published["fingerprints"] == {"policy": POLICY.fingerprint}
    assert [row["name"] for row in published["rows"]] == ["policy", "fewer steps", "fewer steps, sub-grid"]
    assert hub.files("me/policy")["prompts.txt"].decode().splitlines() == PROMPTS
    command = command_of(card)
    assert command[:4] == ["ertacache", "evaluate", "someone/some-model", "policy.safetensors"]
    pairs = set(pairwise(command))
    assert {("--prompts", "prompts.txt"), ("--limit", "10"), ("--seed", "7")} <= pairs
    assert {("--device", "cuda"), ("--dtype", "bfloat16")} <= pairs
    assert {("--set", "guidance_scale=3.5"), ("--set", 'negative_prompt="4"'), ("--set", "height=64")} <= pairs


def test_pictures_and_loras_are_published_by_their_names(hub: Hub, tmp_path: Path) -> None:
    picture = {"file": "star.png", "sha256": "ab12"}
    loras = [{"place": "you/style", "scale": 0.8}, {"place": "/home/alice/own style.safetensors", "scale": 1.0}]
    own = [{"image": {"file": "C:\\Users\\alice\\one.png", "sha256": "cd"}, "strength": 0.5}, *[{}] * 9]
    about = {"image": picture, "loras": loras, "own_arguments": own, "offload": True}
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY}, **about)
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    published = json.loads(hub.files("me/policy")["evaluation.json"])
    assert published["image"] == picture
    assert published["loras"] == [loras[0], {"place": "own style.safetensors", "scale": 1.0}]
    assert published["own_arguments"][0] == {"image": {"file": "one.png", "sha256": "cd"}, "strength": 0.5}
    assert published["offload"] is True
    assert not any(b"alice" in content for content in hub.files("me/policy").values())
    card = card_of(hub)
    assert "with the LoRA you/style at 0.8" in card.text
    assert "from the picture star.png (sha256 ab12)" in card.text
    pairs = set(pairwise(command_of(card)))
    assert {("--image", "star.png"), ("--lora", "you/style:0.8"), ("--lora", "own style.safetensors:1")} <= pairs
    assert "--offload" in command_of(card)
    assert "dtype=torch.bfloat16)\npipe.enable_model_cpu_offload()\n" in card.text


def test_of_several_policies_only_the_one_that_is_shared_is_published(hub: Hub, tmp_path: Path) -> None:
    other = dataclasses.replace(POLICY, cached_steps=(1, 3))
    figures = evaluation(tmp_path / "evaluation.json", {"secret": other, "b (4, as secret)": POLICY})
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    assert re.findall(r"^\| this policy \| \S+ \| (\S+)", card_of(hub).text, re.M) == ["33.0"]
    published = json.loads(hub.files("me/policy")["evaluation.json"])
    assert [row["psnr"][0] for row in published["rows"]] == [33, 34, 35]
    assert [row["name"] for row in published["rows"]] == ["policy", "fewer steps", "fewer steps, sub-grid"]
    assert not any(b"secret" in content for content in hub.files("me/policy").values())


def test_few_prompts_are_said_to_be_few(hub: Hub, tmp_path: Path) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY}, count=2)
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    assert "Fewer than 8 prompts are a check, not a measurement" in card_of(hub).text


@pytest.mark.parametrize("model", ["/home/{user}/models/flux", "models/flux-of-{user}/", "C:\\Users\\{user}\\flux"])
def test_nothing_of_the_machine_is_published(model: str, hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / getpass.getuser() / "evaluation.json"
    path.parent.mkdir()
    figures = evaluation(path, {"mine": POLICY}, model=model.format(user="alice"))
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    text = b"\n".join(hub.files("me/policy").values()).decode(errors="replace")
    for trace in ("alice", str(tmp_path), str(Path.home()), f"/{getpass.getuser()}", socket.gethostname(), "cuda:1"):
        assert trace not in text
    assert "MODEL" in command_of(card_of(hub))
    assert card_of(hub).data.base_model is None


def test_a_folder_that_looks_like_a_hub_id_is_not_taken_for_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models/flux").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY}, model="models/flux")
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    assert b"models/flux" not in hub.files("me/policy")["README.md"]


def test_figures_of_another_policy_are_refused_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    other = dataclasses.replace(POLICY, cached_steps=(2,))
    figures = evaluation(tmp_path / "evaluation.json", {"mine": other})
    with pytest.raises(SharingError, match="about other policies") as caught:
        POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    assert "ertacache evaluate" in caught.value.cure
    assert hub.requests == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"fingerprints": null}', '{"fingerprints": {}}', "rows gone", "a row gone", "a figure gone"],
)
def test_damaged_figures_are_refused(content: str, hub: Hub, tmp_path: Path) -> None:
    path = evaluation(tmp_path / "evaluation.json", {"mine": POLICY})
    told = json.loads(path.read_text())
    if content == "rows gone":
        del told["rows"]
    elif content == "a row gone":
        del told["rows"][1]
    elif content == "a figure gone":
        del told["rows"][0]["psnr"][0]
    path.write_text(json.dumps(told) if content.endswith("gone") else content)
    with pytest.raises(SharingError, match=re.escape(str(path))):
        POLICY.push_to_hub("me/policy", evaluation=path, endpoint=hub.endpoint, **MINE)
    assert hub.requests == []


def test_figures_that_are_not_there_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SharingError, match="cannot be read"):
        POLICY.push_to_hub("me/policy", evaluation=tmp_path / "none.json", endpoint=hub.endpoint, **MINE)


def test_a_later_push_takes_the_place_of_all_that_an_earlier_one_said(hub: Hub, tmp_path: Path) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY})
    POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    POLICIES["reuse"].push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    assert set(hub.files("me/policy")) == {".gitattributes", "README.md", "policy.safetensors"}
    assert "Not measured." in card_of(hub).text


def test_a_revision_is_pushed_and_loaded_by_its_name_or_commit(hub: Hub) -> None:
    where = {"endpoint": hub.endpoint}
    first = POLICIES["reuse"].push_to_hub("me/policy", **where, **MINE)
    POLICY.push_to_hub("me/policy", revision="faster", **where, **MINE)
    POLICY.push_to_hub("me/policy", revision="faster", **where, **MINE)  # the branch may be there
    POLICIES["aligned"].push_to_hub("me/policy", **where, **MINE)
    commit, aligned, reuse = first[-40:], POLICIES["aligned"], POLICIES["reuse"]
    for revision, policy in ((None, aligned), ("main", aligned), ("faster", POLICY), (commit, reuse)):
        loaded = Policy.from_pretrained("me/policy", revision=revision, **where)
        assert loaded.fingerprint == policy.fingerprint
    with pytest.raises(SharingError, match=r"Revision Not Found.*me/policy at slower"):
        Policy.from_pretrained("me/policy", revision="slower", **where)


def test_a_pull_request_is_a_revision_too(hub: Hub) -> None:
    POLICIES["reuse"].push_to_hub("me/policy", endpoint=hub.endpoint + "/", **MINE)
    hub.repositories["me/policy"].branches["refs/pr/1"] = hub.repositories["me/policy"].branches["main"]
    POLICY.push_to_hub("me/policy", revision="refs/pr/1", endpoint=hub.endpoint, **MINE)
    assert not any("/branch/" in request for request in hub.requests)
    loaded = Policy.from_pretrained("me/policy", revision="refs/pr/1", endpoint=hub.endpoint)
    assert loaded.fingerprint == POLICY.fingerprint


def test_a_private_repository_is_for_its_owner(hub: Hub, tmp_path: Path) -> None:
    POLICY.push_to_hub("me/policy", private=True, endpoint=hub.endpoint, **MINE)
    assert hub.repositories["me/policy"].private
    assert Policy.from_pretrained("me/policy", endpoint=hub.endpoint, **MINE).fingerprint == POLICY.fingerprint
    for stranger in ({}, {"token": "hf_hers"}):
        with pytest.raises(SharingError) as caught:
            Policy.from_pretrained("me/policy", endpoint=hub.endpoint, cache_dir=tmp_path, **stranger)
        assert "For a private repository log in" in caught.value.cure


def test_a_repository_is_public_unless_asked(hub: Hub) -> None:
    POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    assert not hub.repositories["me/policy"].private


@pytest.mark.parametrize("token", [None, "hf_mine", "hf_unknown"])
def test_a_repository_that_is_not_there_is_named_with_a_cure(token: str | None, hub: Hub) -> None:
    with pytest.raises(SharingError, match="given: me/nothing") as caught:
        Policy.from_pretrained("me/nothing", token=token, endpoint=hub.endpoint)
    assert "policy.safetensors" in caught.value.cure


def test_a_repository_without_a_policy_is_named(hub: Hub) -> None:
    POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    del hub.files("me/policy")["policy.safetensors"]
    with pytest.raises(SharingError, match=r"Entry Not Found.*given: me/policy"):
        Policy.from_pretrained("me/policy", endpoint=hub.endpoint)


@pytest.mark.parametrize("token", [None, "hf_hers"])
@pytest.mark.parametrize("exists", [False, True], ids=["a new one", "one that exists"])
def test_who_may_not_write_is_told_so(exists: bool, token: str | None, hub: Hub) -> None:
    if exists:
        POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    before = dict(hub.files("me/policy")) if exists else None
    with pytest.raises(SharingError, match=r"not uploaded: .*40[13].*rights.*given: me/policy") as caught:
        POLICIES["reuse"].push_to_hub("me/policy", token=token, endpoint=hub.endpoint)
    assert "hf auth login" in caught.value.cure
    assert (hub.files("me/policy") if exists else None) == before


def test_an_old_client_is_not_asked_to_push_to_another_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "__version__", "0.36.2")
    with pytest.raises(SharingError, match=r"before 1.0 pushes to the Hub of the variable HF_ENDPOINT alone.*Set HF"):
        push(POLICY, "me/policy", endpoint=hub.endpoint, **MINE)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    assert push(POLICY, "me/policy", endpoint=hub.endpoint, **MINE)


def test_a_hub_that_is_down_is_said_to_be(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries six times, for half a minute
    with pytest.raises(SharingError, match="not uploaded"):
        POLICY.push_to_hub("me/policy", endpoint=away, **MINE)
    with pytest.raises(SharingError, match="none could be downloaded from the Hub"):
        Policy.from_pretrained("me/policy", endpoint=away)


def test_what_was_downloaded_is_found_without_the_hub(tmp_path: Path) -> None:
    with serving() as hub:
        POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
        Policy.from_pretrained("me/policy", endpoint=hub.endpoint, cache_dir=tmp_path)
        before = len(hub.requests)
        where = {"endpoint": hub.endpoint, "cache_dir": tmp_path}
        assert Policy.from_pretrained("me/policy", local_files_only=True, **where).fingerprint == POLICY.fingerprint
        with pytest.raises(SharingError):
            Policy.from_pretrained("me/other", local_files_only=True, **where)
        assert len(hub.requests) == before
    assert Policy.from_pretrained("me/policy", **where).fingerprint == POLICY.fingerprint


@pytest.mark.parametrize("damage", [lambda good: b"?" * len(good), lambda good: good[:40] + b"\0" * (len(good) - 40)])
def test_a_damaged_download_is_an_error_that_names_it(damage: Any, hub: Hub) -> None:
    POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    (mark,) = hub.large
    hub.large[mark] = damage(hub.large[mark])
    with pytest.raises(PolicyFileError, match=r"models--me--policy.*policy\.safetensors"):
        Policy.from_pretrained("me/policy", endpoint=hub.endpoint)


def test_a_file_and_a_folder_of_this_machine_go_before_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    POLICY.save("me/policy/policy.safetensors")
    for name in ("me/policy", Path("me/policy"), tmp_path / "me/policy", "me/policy/policy.safetensors"):
        assert Policy.from_pretrained(name).fingerprint == POLICY.fingerprint
    (tmp_path / "me/empty").mkdir()
    with pytest.raises(SharingError, match=r"holds no policy\.safetensors \(given: me/empty\)"):
        Policy.from_pretrained("me/empty")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["nowhere", "runs/flux.safetensors", "/nowhere/flux", "../flux", "a/b/c", "", "~/flux", Path("me/policy")]
)
def test_what_can_be_no_repository_is_refused_without_asking(name: Any, hub: Hub) -> None:
    with pytest.raises((SharingError, FileNotFoundError)):
        Policy.from_pretrained(name, endpoint=hub.endpoint)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["policy", "me/my policy", "me/policy/more", "me/--", ""])
def test_a_name_that_can_be_no_repository_is_refused_before_a_push(name: str, hub: Hub) -> None:
    with pytest.raises(SharingError, match="'you/name'"):
        POLICY.push_to_hub(name, endpoint=hub.endpoint, **MINE)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["/home/me/flux", "flux", "zoo:none", "a/b\ntags: [c]"])
def test_a_base_model_that_means_nothing_to_others_is_refused(name: str, hub: Hub) -> None:
    with pytest.raises(SharingError, match="a folder of yours"):
        POLICY.push_to_hub("me/policy", base_model=name, endpoint=hub.endpoint, **MINE)
    assert hub.requests == []


def test_figures_of_a_model_in_a_folder_take_the_name_that_is_given(hub: Hub, tmp_path: Path) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY}, model=str(tmp_path))
    about = {"evaluation": figures, "base_model": "someone/some-model"}
    POLICY.push_to_hub("me/policy", **about, endpoint=hub.endpoint, **MINE)
    assert command_of(card_of(hub))[2] == card_of(hub).data.base_model == "someone/some-model"


def test_figures_of_another_model_are_refused(hub: Hub, tmp_path: Path) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY}, model="zoo:flux")
    with pytest.raises(SharingError, match=r"about another model.*zoo:flux"):
        POLICY.push_to_hub("me/policy", evaluation=figures, base_model="a/b", endpoint=hub.endpoint, **MINE)
    assert hub.requests == []


def test_figures_without_the_metrics_are_refused_with_what_to_install(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY})
    monkeypatch.setitem(sys.modules, "ertacache.evaluation.evaluate", None)
    with pytest.raises(SharingError, match=r"pip install 'ertacache\[cli\]'"):
        POLICY.push_to_hub("me/policy", evaluation=figures, endpoint=hub.endpoint, **MINE)
    POLICY.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)


def typed(*arguments: Any, **environment: str) -> Any:
    columns = {"COLUMNS": "200", "NO_COLOR": "1"}
    return CliRunner().invoke(app, [str(a) for a in arguments], env={**columns, **environment})


def test_a_class_is_given_both_methods(hub: Hub) -> None:
    class Offering(Policy):
        pass

    offer_on(Offering)
    mine = Offering(**{field.name: getattr(POLICY, field.name) for field in dataclasses.fields(POLICY)})
    mine.push_to_hub("me/policy", endpoint=hub.endpoint, **MINE)
    assert Offering.from_pretrained("me/policy", endpoint=hub.endpoint).fingerprint == POLICY.fingerprint
    assert inspect.signature(Offering.from_pretrained) == inspect.signature(pretrained)
    assert list(inspect.signature(mine.push_to_hub).parameters) == list(inspect.signature(push).parameters)[1:]


def test_push_on_the_command_line(hub: Hub, tmp_path: Path) -> None:
    POLICY.save(tmp_path / "mine.safetensors")
    figures = evaluation(tmp_path / "evaluation.json", {"mine": POLICY})
    command = ["push", tmp_path / "mine.safetensors", "me/policy", "--evaluation", figures, "--private"]
    done = typed(*command, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_mine")
    assert done.exit_code == 0, done.output
    assert f"pushed to {hub.endpoint}/me/policy/commit/" in done.output
    assert hub.repositories["me/policy"].private
    assert "this policy" in card_of(hub).text

    shown = typed("inspect", "me/policy", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_mine")
    assert shown.exit_code == 0, shown.output
    assert "FluxTransformer2DModel" in shown.output

    for refused in (
        typed(*command, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_hers"),
        typed("inspect", "me/nothing", HF_ENDPOINT=hub.endpoint),
        typed("generate", "zoo:flux", "a star", "--policy", "me/nothing", HF_ENDPOINT=hub.endpoint),
        typed("evaluate", "zoo:flux", "me/nothing", HF_ENDPOINT=hub.endpoint),
    ):
        assert refused.exit_code == 2
        assert len(refused.output.strip().splitlines()) == 1
        assert refused.output.startswith("error: ")


@pytest.mark.slow
def test_what_a_card_says_to_type_is_typed_on_the_files_as_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_mine"}
    for steps in (
        ["calibrate", "zoo:flux", "--steps", 6, "--limit", 1, "--computed-steps", 3, "--out", "flux-6.safetensors"],
        ["evaluate", "zoo:flux", "flux-6.safetensors", "--quick", "--set", "true_cfg_scale=4", "--show", 1],
        ["push", "flux-6.safetensors", "me/policy", "--evaluation", "evaluation.json"],
    ):
        done = typed(*steps, **here)
        assert done.exit_code == 0, done.output

    fresh = tmp_path / "elsewhere"
    for name in ("README.md", "policy.safetensors", "evaluation.json", "prompts.txt"):
        huggingface_hub.hf_hub_download("me/policy", name, endpoint=hub.endpoint, local_dir=fresh)
    monkeypatch.chdir(fresh)
    card = ModelCard.load("README.md")
    program, *arguments = command_of(card)
    assert program == "ertacache"
    again = typed(*arguments)
    assert again.exit_code == 0, again.output
    before, after = (json.loads(Path(name).read_text()) for name in ("evaluation.json", "again.json"))
    for ours, theirs in zip(after["rows"], before["rows"], strict=True):
        for name in ("name", "psnr", "ssim", "flops"):
            assert ours[name] == theirs[name]
    same = ("model", "arguments", "prompts", "seed", "device", "dtype", "fingerprints", "ertacache")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}

    (usage,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    names: dict[str, Any] = {}
    exec(usage, names)
    assert names["result"].images[0].size == (96, 96)
