"""A model and a sampling loop of your own: train a small flow on points of a plane, then cache its steps.

    python examples/own_model.py

A pipeline is any object with a denoiser, a scheduler of diffusers' interface and a `__call__`: the library asks for
nothing else. This one learns two shapes, a ring and a spiral, and is guided towards the one that is named. Leaves
own-2x.safetensors, the policy, and own.png: 4000 points in full, accelerated, and with as few plain steps.
"""

import matplotlib.pyplot as plt
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

import ertacache

SHAPES = ("ring", "spiral", "")  # the last is "any", for guidance


def sample_shape(name, count):
    """Points of the data, (count, 2)."""
    turn = 2 * torch.pi * torch.rand(count, 1)
    radius, angle = (1.5, turn) if name == "ring" else (0.3 + 1.4 * turn / (2 * torch.pi), 1.5 * turn)
    return radius * torch.cat([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2)


class Denoiser(nn.Module):
    """The velocity from data to noise at points (n, 2), for a noise level in 0 .. 1 and a shape."""

    def __init__(self, width=128):
        super().__init__()
        self.shape = nn.Embedding(len(SHAPES), width)
        self.level = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.point = nn.Linear(2, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(4)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, points, level, shape):
        waves = level.reshape(-1, 1) * 2.0 ** torch.arange(8)
        hidden = self.point(points) + self.level(torch.cat([waves.cos(), waves.sin()], 1)) + self.shape(shape)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


class PointPipeline:
    """Noise to points, with a loop like any other: the denoiser, guidance, the scheduler's step."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps, guidance_scale=1.5, count=4000, generator=None):
        points = torch.randn(count, 2, generator=generator)
        named, unnamed = (torch.full((count,), SHAPES.index(name)) for name in (prompt, ""))
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            level = (t / 1000).expand(count)
            towards, anywhere = self.denoiser(points, level, named), self.denoiser(points, level, unnamed)
            velocity = anywhere + guidance_scale * (towards - anywhere)
            points = self.scheduler.step(velocity, t, points).prev_sample
        return points


def train(denoiser, steps=1500, batch=512):
    """Flow matching: at a random level, the velocity is noise minus data."""
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(steps):
        data = torch.cat([sample_shape(name, batch // 2) for name in SHAPES[:2]])
        shape = torch.arange(2).repeat_interleave(batch // 2)
        shape[torch.rand(batch) < 0.2] = 2  # no name, for guidance
        level, noise = torch.rand(batch, 1), torch.randn(batch, 2)
        prediction = denoiser(level * noise + (1 - level) * data, level.flatten(), shape)
        loss = (prediction - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


torch.manual_seed(0)
pipe = PointPipeline(Denoiser())
train(pipe.denoiser)
pipe.denoiser.eval()

policy = ertacache.calibrate(pipe, ["ring", "spiral"] * 2, num_inference_steps=24, speedup=2.0)
policy.save("own-2x.safetensors")
fewer = len(policy.computed_steps)

figure, panels = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True)
for row, shape in zip(panels, SHAPES[:2], strict=True):

    def generate(steps, shape=shape):
        """Other noise than in calibration, the same in all three ways."""
        return pipe(shape, num_inference_steps=steps, generator=torch.Generator().manual_seed(99))

    full = generate(24)
    with ertacache.accelerated(pipe, policy) as run:
        accelerated = generate(24)
    for panel, name, points in zip(
        row,
        ("24 steps", f"{fewer} of 24 computed", f"{fewer} plain steps"),
        (full, accelerated, generate(fewer)),
        strict=True,
    ):
        error = float((points - full).norm(dim=1).mean())
        panel.scatter(*points.T, s=1, alpha=0.4)
        panel.set_title(f"{name}\n{error:.3f} from the full run" if error else name, fontsize=9)
        panel.set_aspect("equal")
        print(f"{shape}, {name}: {error:.4f} from the full run in the mean")
print(run.report)
figure.tight_layout()
figure.savefig("own.png", dpi=120)
