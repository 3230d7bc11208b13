"""A clock for work on accelerators, whose operations run on after the call that asked for them."""

import time

import torch


def now() -> float:
    """Seconds on a monotonic clock, read once the current accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def work() -> float:
    """Seconds for ratios: of this process's processors, or of the clock where an accelerator does the work.

    On a CPU the clock would count what other programs take as well, and ratios would scatter with their load.
    """
    return now() if torch.accelerator.is_available() else time.process_time()
