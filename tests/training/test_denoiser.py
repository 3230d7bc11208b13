"""The denoiser's loop takes one stream of latents, or several at one level of noise."""

import pytest
import torch

from training import denoiser


class Streams(torch.nn.Module):
    """Says of each stream what it is to learn, up to a factor."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.seen = []

    def forward(self, noisy, timestep):
        streams = noisy if isinstance(noisy, tuple) else (noisy,)
        self.seen.append([x.shape for x in streams])
        outputs = tuple(scale * x for scale, x in zip(self.scale, streams, strict=False))
        return outputs if isinstance(noisy, tuple) else outputs[0]


@pytest.mark.parametrize("several", [True, False])
def test_streams_share_their_level_of_noise(tmp_path, monkeypatch, several):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    network, text = Streams(), torch.nn.Linear(1, 1)
    first, second = torch.zeros(6, 5, 3), torch.zeros(6, 2)
    ids = (torch.arange(12).view(6, 2),)
    tokens = []

    def predict(noisy, timestep, words):
        tokens.append(words)
        return network(noisy, timestep)

    latents = (first, second) if several else first
    empty = (torch.full((1, 2), 99),)
    options = {"num_steps": 40, "seconds": 60, "batch": 4}
    denoiser.fit(predict, denoiser.flow_matching, network, [text], latents, ids, empty, tmp_path, **options)
    assert network.seen[0] == ([(4, 5, 3), (4, 2)] if several else [(4, 5, 3)])
    drawn = torch.cat(tokens)
    assert 0.02 < float((drawn == 99).all(1).float().mean()) < 0.25
    assert set(drawn[drawn < 99].tolist()) == set(range(12))


def test_the_error_is_the_mean_over_streams_not_over_numbers():
    outputs = (torch.zeros(2, 100), torch.zeros(2, 1))
    assert float(denoiser.mean_error(outputs, (torch.zeros(2, 100), 2 * torch.ones(2, 1)))) == 2


def test_noising_is_at_each_rows_level():
    level = denoiser.flow_matching(3, torch.Generator().manual_seed(0))
    x, noise = torch.ones(3, 4, 2), torch.zeros(3, 4, 2)
    noisy, target = denoiser.noised(x, noise, level)
    assert torch.equal(noisy[:, 0, 0], 1 - level.timestep)
    assert torch.equal(target, -x)
