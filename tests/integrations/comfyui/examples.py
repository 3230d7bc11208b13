"""The example workflows: from a description to the graph that ComfyUI's front end opens.

    python tests/integrations/comfyui/examples.py ADDRESS_OF_A_SERVER

writes them to ``comfyui/ertacache/example_workflows``. The server's node definitions give the order of the widgets.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from workflows import Graph, node

FOLDER = Path(__file__).parents[3] / "comfyui/ertacache/example_workflows"
PROMPTS = """a red fishing boat in a quiet harbour, morning fog
a portrait of an old watchmaker at his bench
a bowl of ramen on a wooden table, seen from above
a cat asleep on a stack of books
a glass greenhouse in winter, lit from within
a street market at night after rain
a snow-covered mountain pass, wide shot
two children flying a kite on a beach"""
TITLES = {
    "full sampler": "In full",
    "sampler": "ERTACache",
    "fewer sampler": "Fewer steps: full / speedup",
    "seed": "Seed of all three",
}
"""Where there are several samplers."""
SAMPLING = {"steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


def _flux() -> Graph:
    return {
        "unet": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "clip": node(
            "DualCLIPLoader",
            clip_name1="t5xxl_fp16.safetensors",
            clip_name2="clip_l.safetensors",
            type="flux",
            device="default",
        ),
        "text": node("CLIPTextEncode", clip=["clip", 0], text="a lighthouse on a cliff at dawn, film photograph"),
        "guided": node("FluxGuidance", conditioning=["text", 0], guidance=3.5),
        "none": node("ConditioningZeroOut", conditioning=["text", 0]),
        "size": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        "vae": node("VAELoader", vae_name="ae.safetensors"),
    }


def _picture(model: str) -> Graph:
    return {
        "sampler": node(
            "KSampler",
            model=[model, 0],
            positive=["guided", 0],
            negative=["none", 0],
            latent_image=["size", 0],
            seed=1,
            denoise=1.0,
            **SAMPLING,
        ),
        "report": node("ERTACacheReport", model=[model, 0], latent=["sampler", 0]),
        "decode": node("VAEDecode", samples=["report", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="ertacache"),
    }


def _beside(left: str, right: str) -> Any:
    images = {"image1": [left, 0], "image2": [right, 0], "direction": "right", "match_image_size": True}
    return node("ImageStitch", **images, spacing_width=16, spacing_color="white")


def examples() -> dict[str, Graph]:
    """FLUX.1-dev with its usual settings, in the form of the API.

    The three rungs; and full, accelerated and fewer steps side by side.
    """
    instant = {"fast": node("ERTACache", model=["unet", 0], speedup=2.0)}
    learn = {"fast": node("ERTACacheLearn", model=["unet", 0], speedup=2.0, folder="flux-dev")}
    calibrate = {
        "prompts": node("ERTACachePrompts", clip=["clip", 0], prompts=PROMPTS),
        "guided prompts": node("FluxGuidance", conditioning=["prompts", 0], guidance=3.5),
        "calibrate": node(
            "ERTACacheCalibrate",
            model=["unet", 0],
            positive=["guided prompts", 0],
            negative=["none", 0],
            latent_image=["size", 0],
            speedup=2.0,
            full_runs=10.0,
            seed=0,
            **SAMPLING,
        ),
        "keep": node("ERTACacheSavePolicy", policy=["calibrate", 0], name="flux-dev-2x"),
        "fast": node("ERTACache", model=["unet", 0], speedup=2.0, policy=["keep", 0]),
    }
    compare = {**_flux(), **instant, **_picture("fast")}
    compare["sampler"]["inputs"]["seed"] = ["seed", 0]
    sampling = compare["sampler"]["inputs"] | {"model": ["unet", 0]}
    compare |= {
        "seed": node("PrimitiveInt", value=1),
        "full sampler": node("KSampler", **sampling),
        "full decode": node("VAEDecode", samples=["full sampler", 0], vae=["vae", 0]),
        "fewer sampler": node("KSampler", **sampling | {"steps": SAMPLING["steps"] // 2}),
        "fewer decode": node("VAEDecode", samples=["fewer sampler", 0], vae=["vae", 0]),
        "two": _beside("full decode", "decode"),
        "three": _beside("two", "fewer decode"),
    }
    compare["save"]["inputs"]["images"] = ["three", 0]
    made = {
        name: {**_flux(), **own, **_picture("fast")}
        for name, own in (("1 instant", instant), ("2 learn", learn), ("3 calibrate", calibrate))
    }
    return made | {"4 compare": compare}


def as_opened(graph: Graph, definitions: dict[str, Any]) -> dict[str, Any]:
    """The graph in the form of the front end, laid out in columns.

    Args:
        graph: in the form of the API.
        definitions: what the server answers at ``/object_info``.
    """
    # An unchanged graph is not run again. Calibrate has a seed too, and is to run once.
    after = "fixed" if "calibrate" in graph else "randomize"
    numbers = {name: place for place, name in enumerate(graph, 1)}
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        sources = [value[0] for value in graph[name]["inputs"].values() if isinstance(value, list)]
        depths[name] = depths.get(name) or max((depth(source) + 1 for source in sources), default=0)
        return depths[name]

    links: list[list[Any]] = []
    nodes = []
    tops: dict[int, int] = {}
    for name, one in graph.items():
        definition = definitions[one["class_type"]]
        described = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
        sockets, widgets, tall = [], [], 0
        for given, (kind, *options) in described.items():
            value = one["inputs"].get(given)
            is_widget = isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            linked = isinstance(value, list)
            if is_widget:
                widgets.append(1 if linked else value)
                tall += 120 if options and options[0].get("multiline") else 0
                if options and options[0].get("control_after_generate"):
                    widgets.append(after)
            if linked or not is_widget:
                socket = {"name": given, "type": kind, "link": None} | (
                    {"widget": {"name": given}} if is_widget else {}
                )
                if linked:
                    links.append([len(links) + 1, numbers[value[0]], value[1], numbers[name], len(sockets), kind])
                    socket["link"] = len(links)
                sockets.append(socket)
        column = depth(name)
        height = 60 + 26 * (len(widgets) + max(len(sockets), len(definition["output"]))) + tall
        height += 260 if one["class_type"] in ("SaveImage", "ERTACacheReport") else 0
        top = tops.get(column, 0)
        tops[column] = top + height + 60
        nodes.append(
            {
                "id": numbers[name],
                "type": one["class_type"],
                **({"title": TITLES[name]} if name in TITLES and "full sampler" in graph else {}),
                "pos": [column * 350, top],
                "size": [300, height],
                "flags": {},
                "order": len(nodes),
                "mode": 0,
                "inputs": sockets,
                "outputs": [
                    {"name": output, "type": kind, "links": []}
                    for output, kind in zip(definition["output_name"], definition["output"], strict=True)
                ],
                "properties": {"Node name for S&R": one["class_type"]},
                "widgets_values": widgets,
            }
        )
    for number, source, slot, *_ in links:
        nodes[source - 1]["outputs"][slot]["links"].append(number)
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def main(address: str) -> None:
    """Write the examples."""
    with urllib.request.urlopen(f"{address}/object_info") as reply:
        definitions = json.load(reply)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, graph in examples().items():
        text = json.dumps(as_opened(graph, definitions), indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
