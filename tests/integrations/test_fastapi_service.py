"""examples/serve_fastapi.py: each request says how it is accelerated, and none touches another."""

import importlib.util
import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples/serve_fastapi.py"

if importlib.util.find_spec("fastapi") is None:
    pytest.skip("fastapi comes with gradio; make test-integrations installs it", allow_module_level=True)

from fastapi.testclient import TestClient


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("serve_fastapi", EXAMPLE)
    module = sys.modules["serve_fastapi"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.LEARN = str(tmp_path_factory.mktemp("learnt"))
    return TestClient(module.app)


def asked(client, **query):
    answer = client.get("/generate", params={"prompt": "a cat", **query})
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    return answer.headers["X-Computed-Steps"], answer.content


def test_each_request_says_how(client):
    full = asked(client, way="off")
    assert full[0] == "30 of 30"
    assert asked(client)[0] == "15 of 30"
    assert asked(client, speedup=3)[0] == "10 of 30"
    assert asked(client, way="learn")[0] == "30 of 30"
    assert asked(client, way="learn", seed=1)[0] == "15 of 30"
    assert asked(client, way="off") == full
    assert list(client.get("/stats").json().values()) == [1]


def test_what_cannot_be_done_is_said(client):
    answer = client.get("/generate", params={"prompt": "a cat", "speedup": 0.5})
    assert answer.status_code == 422
    assert "speedup" in answer.text
    assert client.get("/generate", params={"prompt": "a cat", "way": "unknown"}).status_code == 422
