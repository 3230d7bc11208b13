"""The same on Ray: policies, deaths, pictures in bulk, and the service of examples/serve_ray.py."""

import io
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is an extra; make test-ray runs these")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import ertacache  # noqa: E402
from ertacache import zoo  # noqa: E402
from ertacache.distributed import RayWorkers  # noqa: E402
from ertacache.distributed.bulk import MANIFEST, Order, generate_all  # noqa: E402
from ertacache.evaluation.comparison import Variant  # noqa: E402
from tests.distributed.test_workers import content  # noqa: E402

STEPS = 6
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    torch.set_num_threads(1)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def small():
    found = zoo.load("flux")
    found.arguments["num_inference_steps"] = STEPS
    return found


def loader(name, pids=None):
    def load():
        if pids is not None:
            (pids / str(os.getpid())).touch()
        return zoo.load(name).pipe

    return load


ASKED = ({"speedup": 2}, {"speedup": 3}, {"speedup": 2, "method": "paper"})


def calibrating():
    """A task that makes all of them, one after the other, with the workers that it runs in."""

    def task(pipe, prompts, common):
        return [ertacache.calibrate(pipe, prompts, **common, **asked) for asked in ASKED]

    return task


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_policies_are_the_same_to_the_bit_with_1_2_and_4_workers(name):
    small = zoo.load(name)
    common = {**small.arguments, "num_inference_steps": STEPS, "full_runs": 12, "progress": False}
    given = small.calibration_prompts[:4], common
    alone = list(map(content, calibrating()(small.pipe, *given)))
    for number in (1, 2, 4):
        workers = RayWorkers(number, threads=1, cpus=1)
        assert list(map(content, workers.run(calibrating(), loader(name), given, {}))) == alone, number


def test_an_actor_that_is_killed_changes_nothing(small, tmp_path):
    common = {**small.arguments, "num_computed_steps": 3, "full_runs": 12, "progress": False}
    prompts = small.calibration_prompts[:4]

    def kill_soon():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(int(min(tmp_path.iterdir()).name), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_soon)
        load = loader("flux", tmp_path)
        spread = ertacache.calibrate(load, prompts, workers=RayWorkers(2, threads=1), **common)
        killed.result()
    assert len(list(tmp_path.iterdir())) == 3
    assert content(spread) == content(ertacache.calibrate(small.pipe, prompts, **common))


def test_pictures_in_bulk(small, tmp_path):
    arguments = {name: value for name, value in small.arguments.items() if name != "num_inference_steps"}
    order = Order(small.held_out_prompts[:8], Variant("full", 3), arguments, seed=0)
    generate_all(loader("flux"), order, tmp_path, RayWorkers(2, threads=1))
    entries = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert sorted(entry["number"] for entry in entries) == list(range(8))


def fetched(port, query):
    """A picture as numbers and its headers; retried nowhere, so that a lost request fails the test."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/generate?{query}", timeout=300) as answer:
        image = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"), np.float32) / 255
        return image, dict(answer.headers)


def test_the_service(small, tmp_path, monkeypatch):
    from ray import serve

    monkeypatch.setenv("ZOO", "flux")
    sys.path.insert(0, str(EXAMPLES))
    import serve_ray

    ray.cloudpickle.register_pickle_by_value(serve_ray)
    common = {**small.arguments, "progress": False, "full_runs": 20}
    policies = {}
    for computed in (3, 4):
        made = ertacache.calibrate(small.pipe, small.calibration_prompts[:4], num_computed_steps=computed, **common)
        assert made.envelope is not None  # for a guard
        made.save(tmp_path / f"{computed}.safetensors")
        policies[computed] = made
    figures = serve_ray.Figures.remote()

    def deploy(computed):
        path = str(tmp_path / f"{computed}.safetensors")
        app = serve_ray.application(figures, replicas=2, learn=tmp_path / "learnt", audit=0.5, policy=path)
        serve.run(app, name="pictures", route_prefix="/")

    port = 8765
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        deploy(3)
        settings = [f"steps={STEPS}", "steps=8", f"steps={STEPS}&guidance=2"]
        queries = [f"prompt=a+red+star&seed={k}&{settings[k % 3]}" for k in range(12)]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda query: fetched(port, query), queries))
        for k, (image, headers) in enumerate(answers):
            assert image.shape == (96, 96, 3)
            if k % 3 == 0:
                assert headers["x-computed-steps"] == f"3 of {STEPS}"
                assert headers["x-way"] == policies[3].fingerprint
                call = {**small.arguments, "prompt": "a red star", "generator": torch.Generator().manual_seed(k)}
                with ertacache.accelerated(small.pipe, policies[3]):
                    wanted = small.pipe(**call, output_type="np").images[0]
                assert np.abs(image - wanted).max() < 0.05  # a batch rounds otherwise
            else:
                assert headers["x-way"] == "learnt"
        assert len(list((tmp_path / "learnt").glob("*.safetensors"))) == 2, "a setting was learnt twice, or not shared"

        with ThreadPoolExecutor(6) as pool:  # swapped under load
            asked = [pool.submit(fetched, port, f"prompt=a+ring&seed={k}&steps={STEPS}") for k in range(16)]
            deploy(4)
            asked += [pool.submit(fetched, port, f"prompt=a+ring&seed={k}&steps={STEPS}") for k in range(4)]
            ways = [future.result()[1]["x-way"] for future in asked]
        assert set(ways) <= {policy.fingerprint for policy in policies.values()}
        assert ways[-1] == policies[4].fingerprint
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=60) as answer:
            stats = json.loads(answer.read())
        assert sum(stats["batches"].values()) <= 32
        assert stats["guarded"] == 4 + 20
        with pytest.raises(urllib.error.HTTPError, match="400"):
            fetched(port, "prompt=a+star&steps=0")
    finally:
        serve.shutdown()
