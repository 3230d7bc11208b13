"""A denoiser that two processes share: every rank follows the policy by itself, and they stay in step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("parallel_worker.py")


@pytest.mark.parametrize("mode", ["context", "tensor"])
def test_two_ranks_take_the_same_decisions_and_give_what_one_gives(mode, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    done = subprocess.run([*command, mode, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["plain"] < 1e-4
    for level in ("velocity", "hidden"):
        seen = first[level]
        assert seen["difference"] < 1e-4
        assert seen["cached"] == seen["wanted"]
        assert len(seen["cached"]) == 3
    assert first["velocity"]["calls"] == 5 * 2
