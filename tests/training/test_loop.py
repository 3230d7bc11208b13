"""The training loop: an interrupted run goes on as if it had not been."""

import pytest
import torch

from training.loop import train


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)


def run(network, folder, num_steps=30, stop_at=None):
    def loss_at(step, generator):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=generator)
        return (network(x)[:, 0] - x.sum(1)).square().mean()

    parameters = list(network.parameters())
    train("line", loss_at, parameters, folder, num_steps=num_steps, learning_rate=0.05, warmup=5, save_every=0.0)
    return torch.cat([p.detach().flatten() for p in parameters])


def test_a_resumed_run_ends_bit_identical(tmp_path):
    whole = run(model(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(model(), tmp_path / "parts", stop_at=17)
    assert torch.equal(run(model(), tmp_path / "parts"), whole)


def test_it_learns_and_logs_its_curve(tmp_path):
    weights = run(model(), tmp_path, num_steps=300)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1, 1, 1, 0]), atol=0.05, rtol=0)
    rows = [line.split(",") for line in (tmp_path / "line.csv").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == [50, 100, 150, 200, 250, 300]
    assert float(rows[-1][3]) < float(rows[0][3])
