"""The real ComfyUI server on the CPU, and its HTTP API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
NODES = HERE.parents[2] / "comfyui/ertacache"
LISTED = (
    "diffusion_models/flux1-dev.safetensors",
    "text_encoders/t5xxl_fp16.safetensors",
    "text_encoders/clip_l.safetensors",
    "vae/ae.safetensors",
)


class WorkflowError(Exception):
    """A node failed; the text is what the server says of it."""


class Server:
    """A running server.

    Args:
        comfyui: the folder of ComfyUI.
        base: an empty folder for models, nodes and outputs.
    """

    def __init__(self, comfyui: Path, base: Path) -> None:
        self.base = base
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        path = os.pathsep.join([str(comfyui.parent / "stand-ins"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        for name in ("input", "output", "temp", "user", "models/diffusion_models", "custom_nodes"):
            (base / name).mkdir(parents=True, exist_ok=True)
        make = [sys.executable, str(HERE / "checkpoints.py"), str(base / "models/diffusion_models")]
        subprocess.run(make, cwd=comfyui, env=environment, check=True, capture_output=True)
        for listed in LISTED:  # the examples' models, so that the front end finds their names
            (base / "models" / listed).parent.mkdir(parents=True, exist_ok=True)
            (base / "models" / listed).touch()
        shutil.copytree(NODES, base / "custom_nodes/ertacache")
        shutil.copytree(HERE / "pack", base / "custom_nodes/test_pack")
        arguments = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(base)]
        arguments += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        self.log = base / "server.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "main.py", *arguments]
            self.process = subprocess.Popen(command, cwd=comfyui, env=environment, stdout=log, stderr=log)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, seconds: float = 300.0) -> None:
        """Wait until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read() or "null")

    def queue(self, graph: dict[str, Any]) -> str:
        """Queue a workflow, in the form of the API."""
        try:
            return self.post("/prompt", {"prompt": graph})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise WorkflowError(error.read().decode()) from None

    def finished(self, number: str, seconds: float = 300.0) -> dict[str, Any]:
        """Wait for a workflow; returns what its nodes show, by node.

        Raises:
            WorkflowError: if a node failed, or the workflow was interrupted.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{number}")
            if number in history:
                status = history[number]["status"]
                if status["status_str"] != "success":
                    raise WorkflowError(json.dumps(status["messages"]))
                return history[number]["outputs"]
            time.sleep(0.1)
        raise TimeoutError(number)

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        return self.finished(self.queue(graph))

    def latent(self, outputs: dict[str, Any], node: str = "save") -> torch.Tensor:
        """Load what a SaveLatent node has saved."""
        (saved,) = outputs[node]["latents"]
        return load_file(self.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]
