"""A clock for work on accelerators, whose operations run on after the call that asked for them."""

import time

import torch


def now() -> float:
    """Seconds on a monotonic clock, read once the current accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
