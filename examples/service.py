"""A service that starts without a policy, learns from its first requests, audits some, and says how good it is.

    python examples/service.py --learn learnt --port 8000
    curl "localhost:8000/generate?prompt=a+red+star" --output star.png
    curl localhost:8000/stats

The first request of each setting takes a full generation; later ones compute half of the steps. One in fifty runs in
full again: its user gets the full picture, and /stats how far the accelerated one would have been from it. Replace
`load` by your own pipeline; several processes may share the folder.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch

import ertacache
from ertacache import zoo
from ertacache.learning.learnt import LearntFolder


def load():
    """The pipeline, and what every call of it is given."""
    embedded = zoo.load()
    return embedded.pipe, embedded.arguments


class Service(ThreadingHTTPServer):
    """One pipeline behind HTTP; requests wait for each other, since it serves one call at a time."""

    def __init__(self, port, learn, speedup, audit, steps=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.pipe, self.arguments = load()
        self.arguments |= {"num_inference_steps": steps} if steps else {}
        self.folder, self.lock, self.served = Path(learn), threading.Lock(), {"full": 0, "accelerated": 0}
        self.run = ertacache.enable(self.pipe, speedup=speedup, learn=learn, audit=audit)

    def generate(self, prompt, seed):
        """A picture, as PNG, and what its call did."""
        with self.lock:
            generator = torch.Generator().manual_seed(seed)
            picture = self.pipe(**{**self.arguments, "prompt": prompt, "generator": generator}).images[0]
            report = self.run.report
            self.served["accelerated" if report.cached_steps else "full"] += 1
        written = io.BytesIO()
        picture.save(written, format="PNG")
        return written.getvalue(), report

    def stats(self):
        """What was served, and what is known of each setting."""
        settings = []
        for known in LearntFolder(self.folder).all().values():
            computed = sorted(set(known.audited_steps))
            audits = {f"{steps} steps computed": known.told(steps) for steps in computed} or "none yet"
            settings.append({"setting": known.setting, "full generations": known.generations, "audits": audits})
        return {"served": dict(self.served), "settings": settings}


class Handler(BaseHTTPRequestHandler):
    """GET /generate?prompt=...&seed=0 and GET /stats."""

    def do_GET(self):
        url = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            if url.path == "/stats":
                self.answer(200, "application/json", json.dumps(self.server.stats(), indent=1).encode())
            elif url.path == "/generate" and asked.get("prompt"):
                picture, report = self.server.generate(asked["prompt"], int(asked.get("seed", 0)))
                self.answer(200, "image/png", picture, report)
            else:
                self.answer(404, "text/plain", b"GET /generate?prompt=...&seed=0, or GET /stats\n")
        except (ertacache.ERTACacheError, ValueError) as error:
            self.answer(400, "text/plain", f"{error}\n".encode())

    def answer(self, status, kind, content, report=None):
        """Send it; the steps computed and the notes go along as headers."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if report is not None:
            made = len(report.computed_steps) + len(report.cached_steps)
            self.send_header("X-Computed-Steps", f"{len(report.computed_steps)} of {made}")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Quiet."""


def main(given=None):
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--learn", default="learnt", help="the folder for what is learnt")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--audit", type=float, default=0.02, help="the share of requests that run in full")
    parser.add_argument("--steps", type=int, help="of each picture; by default as in load")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    options = parser.parse_args(given)
    with Service(options.port, options.learn, options.speedup, options.audit, options.steps) as service:
        print(f"serving on port {service.server_port}", flush=True)
        service.serve_forever()


if __name__ == "__main__":
    main()
