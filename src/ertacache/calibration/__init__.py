"""Calibration: make a policy from a pipeline, prompts and a budget, or a profile with policies for any budget.

The public functions are `ertacache.calibration.calibrate.calibrate`, `ertacache.calibration.make_profile.profile` and
`ertacache.calibration.make_draft.draft`. The other modules, in the order of a calibration:

- Checks of what users give: `options`, `prompts`, `budget`. `plan` spends the limit on prompts and loops;
  `announcement` says the price first, and by `worth` what more would bring.
- Full runs: `full_runs` opens a session. `recorder` makes each run, `recording` holds it, `recording_store` keeps it
  (in files by `recording_file`, under the name from `checkpoint_key`). `gram` (with the surrogate, which judges
  schedules and solves weights) and `residual_distances` are computed from recordings alone.
- Closed loops: `lockstep` brings all prompts to the same step, each in a `prompt_thread`. `closed_loop` skips the
  cached steps and fits the predictions that replace them (`step_fit`). `loop_runner` runs such loops and counts their
  denoiser calls. `paper_loop` computes every step, to fit the paper's method. `loop_result` is the result of a loop,
  with errors from `deviations`; `loop_outputs` keeps its outputs, with which another loop can begin.
- From a budget to a policy: `policy_for_budget` calls `by_steps` (with `search`), `by_threshold`, `by_seconds` (with
  `timing`) or `by_quality` (with `quality`). `make_policy` chooses which loop provides a policy's weights and errors.
- `profile` holds the policies of a profile; `progress` shows how far a calibration is.
"""

from ertacache.calibration.calibrate import calibrate
from ertacache.calibration.make_draft import draft
from ertacache.calibration.make_profile import profile
from ertacache.calibration.profile import Profile

__all__ = ["Profile", "calibrate", "draft", "profile"]
