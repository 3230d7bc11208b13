"""examples/serve_fastapi.py: it learns, audits and tells; each request says what it wants, and none touches another."""

import importlib.util
import io
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from PIL import Image

from ertacache import zoo

EXAMPLE = Path(__file__).parents[2] / "examples/serve_fastapi.py"
STEPS = 6

if importlib.util.find_spec("fastapi") is None:
    pytest.skip("fastapi comes with gradio; make test-integrations installs it", allow_module_level=True)

from fastapi.testclient import TestClient


def serving(name, folder, monkeypatch):
    """The example as a module, on one of the small pipelines."""
    torch.set_num_threads(1)
    monkeypatch.setenv("ZOO", name)
    monkeypatch.setenv("LEARN", str(folder / "learnt"))
    spec = importlib.util.spec_from_file_location("serve_fastapi", EXAMPLE)
    module = sys.modules["serve_fastapi"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.arguments |= {"num_inference_steps": STEPS}
    module.client = TestClient(module.app, raise_server_exceptions=False)
    return module


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield serving("emoji", tmp_path_factory.mktemp("service"), patch)


def asked(service, **given):
    """How a request was made, and its picture."""
    answer = service.client.post("/generate", json={"prompt": "a cat", "seed": 1, "height": 32, "width": 32, **given})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Seed"] == str(given.get("seed", 1))
    assert float(answer.headers["X-Seconds"]) > 0
    return answer.headers["X-Made"], answer.headers["X-Computed-Steps"], Image.open(io.BytesIO(answer.content))


def test_it_learns_audits_and_tells_and_a_request_can_be_left_out_of_it(service, monkeypatch):
    monkeypatch.setattr(service, "AUDIT", 0.0)
    assert service.client.get("/stats").json() == {"served": {}, "settings": []}
    plain = asked(service, accelerate=False)
    assert plain[:2] == ("full", "6 of 6")
    assert asked(service) == plain, "the first one of a setting is the full one, and is learnt from"
    learnt = asked(service)
    assert learnt[:2] == ("learnt", "3 of 6")
    assert learnt[2] != plain[2]
    assert asked(service, speedup=3)[:2] == ("learnt", "2 of 6")
    assert asked(service, learn=False)[:2] == ("instant", "3 of 6")
    assert asked(service, accelerate=False) == plain
    monkeypatch.setattr(service, "AUDIT", 1.0)
    assert asked(service) == ("audit", *plain[1:])
    stats = service.client.get("/stats").json()
    assert stats["served"] == {"full": 3, "learnt": 2, "instant": 1, "audit": 1}
    (setting,) = stats["settings"]
    assert setting["full generations"] == 2
    assert "relative error of the final latent 0." in setting["audits"]["3 steps computed"]


def test_too_many_at_once_are_sent_away_and_stats_answer_meanwhile(service, monkeypatch):
    monkeypatch.setattr(service, "places", threading.BoundedSemaphore(1))
    small = {"prompt": "a cat", "height": 32, "width": 32, "steps": 2, "accelerate": False}
    with ThreadPoolExecutor(1) as others, service.one_at_a_time:
        first = others.submit(service.client.post, "/generate", json=small)
        while service.places._value:
            time.sleep(0.01)
        sent_away = service.client.post("/generate", json=small)
        assert (sent_away.status_code, sent_away.headers["Retry-After"]) == (503, "10")
        assert service.client.get("/stats").status_code == 200
        service.one_at_a_time.release()
        assert first.result().status_code == 200
        service.one_at_a_time.acquire()
    assert service.client.post("/generate", json=small).status_code == 200


def test_the_log_tells_where_a_call_departs_from_a_policy(service, caplog):
    caplog.set_level("INFO", "uvicorn.error")
    asked(service, learn=False, seed=41)
    assert "seed 41: not calibrated" in caplog.text


def test_a_request_chooses(service):
    once = {"accelerate": False, "steps": 2}
    picture = asked(service, **once)[2]
    for other in ({"seed": 2}, {"guidance": 1.5}, {"negative_prompt": "red"}, {"prompt": "a red star"}):
        assert asked(service, **once, **other)[2] != picture
    wide = asked(service, **once, width=48)
    assert wide[1] == "2 of 2"
    assert wide[2].size == (48, 32)
    answers = [service.client.post("/generate", json={"prompt": "a cat", **once}) for _ in range(2)]
    assert answers[0].headers["X-Seed"] != answers[1].headers["X-Seed"], "each its own, unless it is given"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"prompt": ""}, "at least 1 character"),
        ({"steps": 1}, "greater than or equal to 2"),
        ({"steps": "many"}, "valid integer"),
        ({"height": 40}, "multiple of 16"),
        ({"guidance": -1}, "guidance: Input should be greater than or equal to 1"),
        ({"guidance": float("nan")}, "guidance: Input should be"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"speedup": 0.5}, "speedup"),
        ({"accelerate": "perhaps"}, "valid boolean"),
        ({"stepz": 10}, "stepz"),
        ({"num_frames": 9}, "this model takes no num_frames"),
        ({"num_frames": 9, "accelerate": False}, "this model takes no num_frames"),
    ],
)
def test_what_is_wrong_is_said(service, wrong, reason):
    body = json.dumps({"prompt": "a cat", **wrong})  # which writes NaN, as the client would not
    answer = service.client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_what_is_no_fault_of_the_caller_is_not_blamed_on_them(service, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(service, "LEARN", tmp_path / "file")
    assert service.client.post("/generate", json={"prompt": "a cat"}).status_code == 500

    def broken(made):
        raise ValueError("no encoder")

    monkeypatch.setattr(service, "encoded", broken)
    once = {"prompt": "a cat", "accelerate": False, "steps": 2}
    assert service.client.post("/generate", json=once).status_code == 500


@pytest.mark.skipif("wan" not in zoo.available(), reason="the video pipelines are in a checkout only")
def test_a_clip_is_mp4_or_webp_where_there_is_no_encoder(tmp_path, monkeypatch):
    service = serving("wan", tmp_path, monkeypatch)
    small = {"prompt": "a red ball", "num_frames": 5, "steps": 2, "height": 32, "width": 32, "guidance": 1}
    clip = service.client.post("/generate", json=small)
    assert clip.headers["Content-Type"] == "video/mp4"
    assert imageio.imread(clip.content, extension=".mp4").shape == (5, 32, 32, 3)
    monkeypatch.setattr(service, "find_spec", lambda name: None)
    other = service.client.post("/generate", json=small)
    assert other.headers["Content-Type"] == "image/webp"
    assert Image.open(io.BytesIO(other.content)).n_frames == 5
