"""A page to try it on: a prompt, a speed, and the full picture beside the accelerated one under a slider.

    pip install 'ertacache[cli]' gradio
    python examples/gradio_app.py                                 # the small pipeline of the package, on a CPU
    python examples/gradio_app.py --policy policy.safetensors     # with a calibrated policy, and its guard

"learn" keeps what full generations teach in a folder: the first one of each setting runs in full, and the ones after it
are accelerated by what is known. Replace `load` by your own pipeline.
"""

from __future__ import annotations

import argparse
import threading
from contextlib import nullcontext
from pathlib import Path

import gradio as gr
import torch

import ertacache
from ertacache import zoo
from ertacache.clock import now
from ertacache.learning.learnt import LearntFolder
from ertacache.metrics import psnr

INSTANT, LEARN, POLICY = "instant: takes nothing", "learn from full generations", "the calibrated policy"


def load():
    """The pipeline, and what every call of it is given."""
    embedded = zoo.load()
    return embedded.pipe, embedded.arguments


class Studio:
    """One pipeline, which makes one picture at a time.

    Args:
        learn: the folder for what is learnt.
        policy: a calibrated policy, or None.
    """

    def __init__(self, learn, policy=None):
        self.pipe, self.arguments = load()
        self.pipe.set_progress_bar_config(disable=True)
        self.learn, self.policy, self.lock = Path(learn), policy, threading.Lock()

    @property
    def ways(self):
        """What can be chosen."""
        return [INSTANT, LEARN, *([POLICY] if self.policy else [])]

    def accelerated(self, way, speedup):
        """The context that a call runs in."""
        if way == POLICY:
            guard = "report" if self.policy.envelope is not None else None
            return ertacache.accelerated(self.pipe, self.policy, guard=guard)
        learn = {"learn": self.learn, "audit": 0.0} if way == LEARN else {}
        return ertacache.accelerated(self.pipe, speedup=speedup, **learn)

    def picture(self, prompt, seed, context):
        """A picture, how many seconds it took, and what its call reported."""
        generator = torch.Generator().manual_seed(int(seed))
        begin = now()
        with context as run:
            image = self.pipe(**{**self.arguments, "prompt": prompt, "generator": generator}).images[0]
        return image, now() - begin, run.report if run else None

    def both(self, prompt, seed, way, speedup, beside):
        """The full picture and the accelerated one, and what is to be said of them."""
        if not prompt.strip():
            raise gr.Error("Write what to generate.")
        with self.lock:
            try:
                image, seconds, report = self.picture(prompt, seed, self.accelerated(way, speedup))
            except ertacache.ERTACacheError as error:
                raise gr.Error(str(error)) from error
            full, in_full = image, None
            if beside:
                full, in_full, _ = self.picture(prompt, seed, nullcontext())
        return (full, image), self.said(full, image, seconds, in_full, report), self.known()

    def said(self, full, image, seconds, in_full, report):
        """What the call did, in words."""
        computed, cached = len(report.computed_steps), len(report.cached_steps)
        lines = [f"**{computed} of {computed + cached} steps computed**, {seconds:.2f} s"]
        if in_full is not None:
            near = psnr(*(as_tensor(one) for one in (image, full)))
            same = "the same picture" if near > 40 else f"{near:.1f} dB from it"
            lines[0] += f"; in full {in_full:.2f} s, **{in_full / seconds:.2f}x** as long: {same}"
        if report.guard is not None and report.guard.scores:
            left = any(report.guard.left)
            word = "have a look: it drifts more than calibration's did" if left else "nothing unusual"
            lines.append(f"guard: {word} (score {max(report.guard.scores):.2f}, limit {report.guard.limit:.2f})")
        return "\n\n".join([*lines, *(f"note: {note}" for note in report.notes)])

    def known(self):
        """What was learnt so far, as rows of a table."""
        settings = LearntFolder(self.learn).all().values() if self.learn.exists() else ()
        return [[known.setting[:60], known.generations] for known in settings]


def as_tensor(image):
    """A picture as the metrics take it: (1, 3, height, width) in 0 .. 1."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, 3).movedim(-1, 1).float() / 255


def page(studio):
    """The page."""
    with gr.Blocks(title="ERTACache") as blocks:
        gr.Markdown("# Full beside accelerated\nMove the slider: left is the full run, right the accelerated one.")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                prompt = gr.Textbox(label="Prompt", value="a large red star on a teal background", lines=2)
                speedup = gr.Slider(1.2, 5, value=2, step=0.1, label="Speed: all steps over computed steps")
                way = gr.Radio(studio.ways, value=studio.ways[-1 if studio.policy else 0], label="How")
                seed = gr.Number(0, label="Seed", precision=0)
                beside = gr.Checkbox(True, label="Make the full run too")
                button = gr.Button("Generate", variant="primary")
            with gr.Column(scale=2, min_width=280):
                pictures = gr.ImageSlider(label="full | accelerated", type="pil", height=420)
                told = gr.Markdown()
        with gr.Accordion("Learnt so far", open=False):
            known = gr.Dataframe(studio.known, headers=["setting", "full generations"], interactive=False)
        button.click(studio.both, [prompt, seed, way, speedup, beside], [pictures, told, known])
    return blocks


def main():
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--policy", help="a policy file, of `ertacache calibrate`")
    parser.add_argument("--learn", default="learnt", help="the folder for what is learnt")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    policy = ertacache.Policy.load(options.policy) if options.policy else None
    page(Studio(options.learn, policy)).launch(server_name="127.0.0.1", server_port=options.port)


if __name__ == "__main__":
    main()
