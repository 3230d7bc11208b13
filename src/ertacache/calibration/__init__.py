"""From a pipeline, prompts and a budget to a policy, or to a profile that answers to any budget.

The public functions are in `calibrate`, `make_profile` (its `profile`) and `draft`; below them, in the order of a
calibration:

- What is given, checked: `options`, `prompts`, `budget`.
- Full runs: `full_runs` opens a session; `recorder` makes each run and `recording` holds it, kept by `recording_store`
  as `recording_file` writes it, under the name that `checkpoint` gives; `gram` and `residual_distances` are what is
  computed from recordings alone.
- Closed loops: `lockstep` brings all prompts to each step, every one in a `prompt_thread`; `closed_loop` skips the
  cached steps and fits what takes their place (`step_fit`), `closed_loops` runs such loops and counts their cost,
  `paper_loop` computes every step for the paper's fits. A loop gives a `fit`, from `deviations` of its latents, and a
  `trace` from which another loop can begin.
- From a budget to a policy: `solve` hands on to `by_steps` (with `search`), `by_threshold`, `by_seconds` (with
  `timing`) or `by_quality` (with `quality`); `make_policy` says which loop's weights and errors a policy gets.
- `profile` holds the policies of a profile; `progress` is what is shown meanwhile.
"""

from ertacache.calibration.calibrate import calibrate
from ertacache.calibration.make_draft import draft
from ertacache.calibration.make_profile import profile
from ertacache.calibration.profile import Profile

__all__ = ["Profile", "calibrate", "draft", "profile"]
