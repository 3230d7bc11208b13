"""`ertacache benchmark` runs the benchmark of the checkout as a process of its own."""

import json
import subprocess
import sys

from tests.cli.running import refused


def test_the_benchmark_of_the_checkout_takes_over(tmp_path):
    rivals = tmp_path / "checkout/benchmarks/rivals"
    rivals.mkdir(parents=True)
    (rivals.parent / "__init__.py").touch()
    (rivals / "__main__.py").write_text("import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(3)")
    other = tmp_path / "benchmarks"  # in the working directory
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('the other one')")
    code = (
        "from pathlib import Path; from ertacache.cli import app, benchmark\n"
        "benchmark._CHECKOUT = Path('checkout').resolve(); app()"
    )
    options = ["--rival", "TeaCache", "--rival", "-x", "--prompts", "3", "--quick", "--work", "w"]
    command = [sys.executable, "-c", code, "benchmark", "flux", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == [
        "flux",
        "--rival=TeaCache",
        "--rival=-x",
        "--prompts=3",
        "--seed=1000",
        "--out=w/quick",
        "--page=w/quick/results.md",
        "--report=w/quick/results.html",
        "--work=w",
        "--quick",
    ]


def test_without_a_checkout_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr("ertacache.cli.benchmark._CHECKOUT", tmp_path)
    assert "the rivals do not travel with the package" in refused("benchmark")
