"""The paper's experiments: what is computed from runs, what the page says of it, and the quick form of all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.paper import claims, distances, error_maps, figures, published, sensitivity, tables, trajectories
from benchmarks.paper.__main__ import main
from benchmarks.paper.comparison import nearest
from benchmarks.paper.page import write_page
from benchmarks.paper.wording import verdict
from benchmarks.rivals.teacache import relative_l1


def row(psnr, **more):
    return {"psnr": psnr, "ssim": [0.9] * len(psnr), "speedup": [2.0] * len(psnr), "more": {}, **more}


# Figure 2a


def test_the_distances_of_a_run_whose_outputs_are_known():
    # Two branches by turns; the first grows by half and then stands still, the second doubles and halves.
    outputs = [torch.full((2, 3), value) for value in (2.0, 1.0, 3.0, 2.0, 3.0, 1.0)]
    assert distances.over_branches(outputs, 1, relative_l1) == pytest.approx([1 / 2, 2, 1 / 3, 1 / 2, 2 / 3])
    assert distances.over_branches(outputs, 2, relative_l1) == pytest.approx([(1 / 2 + 1) / 2, (0 + 1 / 2) / 2])
    # Eq. (12) divides by the fresh residual, TeaCache by the one before.
    assert distances.consecutive(outputs[:2], distances.residual_distance) == pytest.approx([1.0])


def test_where_a_prediction_misses_and_how_much_prompts_differ():
    measured = [[1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [3.0, 3.0, 2.0, 2.0, 4.0, 4.0]]
    predicted = [[2.0, 2.0, 2.0, 2.0, 2.0, 2.0]] * 2
    assert distances.misses(measured, predicted) == pytest.approx((0.0, 0.5))
    assert distances.consistency(measured) == pytest.approx((0.5 + 0.5) / 6)
    assert distances.consistency(predicted) == 0
    result = {"model": "flux", "measured": measured, "predicted": predicted}
    turned = {**result, "measured": [line[::-1] for line in measured]}
    assert "| flux | 2 | 2.000 to 4.000 | 17 % | 0 % | 0 % | 50 % | reproduced |" in figures.distance([result])
    assert figures.distance([turned]).endswith("| 50 % | 0 % | not reproduced |")


# Figure 2b


def test_projecting_keeps_the_distances_of_trajectories_in_a_plane():
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(40, 2, generator=generator, dtype=torch.float64))[0]
    flat = {name: torch.randn(7, 2, generator=generator, dtype=torch.float64) for name in ("full", "offline")}
    found = trajectories.projected({name: list(points @ plane.T + 3) for name, points in flat.items()})
    points = torch.cat(list(flat.values()))
    shown = torch.cat([torch.as_tensor(found[name].copy()) for name in flat])
    assert torch.allclose(torch.cdist(shown, shown), torch.cdist(points, points), atol=1e-5)


def test_a_retimed_latent_is_held_against_the_full_run_at_its_own_noise_level():
    full = [torch.tensor([value, 1.0]) for value in (0.0, 2.0, 4.0)]
    path = [torch.tensor([value, 1.0]) for value in (0.0, 1.0, 4.0)]
    assert trajectories.distances(path, full, [0.0, 0.5, 2.0]) == [0, 0, 0]
    assert trajectories.distances(path, full, [0.0, 1.0, 2.0])[1] == pytest.approx(1 / 5**0.5)


# Figure 6


def test_a_line_explains_an_error_that_is_one_and_not_one_that_is_noise():
    generator = torch.Generator().manual_seed(0)
    reused = [torch.randn(1, 2, 8, 8, generator=generator) for _ in range(4)]
    slopes = torch.tensor([0.3, -0.2]).reshape(1, 2, 1, 1)
    linear = [v - (slopes * v + 0.1) for v in reused]
    assert error_maps.explained(reused, linear, axis=1) == pytest.approx(1, abs=1e-5)
    noise = [v - torch.randn(1, 2, 8, 8, generator=generator) for v in reused]
    assert abs(error_maps.explained(reused, noise, axis=1)) < 0.1
    assert error_maps.likeness([reused[0], 2 * reused[0]]) == pytest.approx(1)
    assert abs(error_maps.likeness(reused)) < 0.2


# Tables, and Figure 5


def test_a_setting_is_chosen_by_the_quotient_of_speedups():
    assert nearest([1.0, 1.4, 4.0], 2.0) == 1
    assert nearest([1.0, 4.0], 2.1) == 1  # 2.1 is nearer to 1.0 by difference, and to 4.0 by quotient


def test_what_is_reproduced_follows_from_the_interval():
    assert [verdict(v) for v in ([1.0, 1.1], [-1.0, -1.1], [1.0, 2.0], [-1.0, 1.0])] == [
        "reproduced",
        "reversed",
        "inconclusive",
        "inconclusive",
    ]


@pytest.mark.parametrize(("timed", "said"), [(30.0, "reversed"), (50.0, "reproduced")])
def test_the_ablation_says_what_each_part_adds_by_its_own_figures(timed, said):
    psnr = {"uniform": 30.0, "offline": 40.0, "offline+time": timed, "paper": timed + 1}
    rows = [row([value, value], name=name + ending) for name, value in psnr.items() for ending in ("", ", hidden")]
    rows += [row([60.0, 60.0], name="aligned"), row([35.0, 35.0], name="fewer steps")]
    result = {
        "model": "wan",
        "family": "wan",
        "computed_steps": 13,
        "arguments": {"num_inference_steps": 30},
        "rows": rows,
    }
    text = tables.parts([result])
    assert (
        f"| wan | +Time Adjustment | +0.85 | {timed - 40:+.2f} ({timed - 40:+.2f} to {timed - 40:+.2f}) | {said} |"
        in text
    )
    assert ("E6" in text) == (said == "reversed")
    rows_of_it = tables.ablation(result)
    assert "| aligned | **60.0 (60.0 to 60.0)** |" in rows_of_it
    assert "| Offline Policy | 22.09 | 0.7738 | 0.1477 | offline | 40.0 (40.0 to 40.0) |" in rows_of_it
    (claim,) = [c for c in claims.CLAIMS if "timestep adjustment adds" in c.text]
    assert claim.verdicts(result) == [said, said]


@pytest.mark.parametrize(("peak", "said"), [(0, "reproduced"), (2 << 20, "not reproduced")])
def test_memory_and_latency_beside_the_papers(peak, said):
    names = ("baseline", "TeaCache", "ERTACache, offline+time, 2x", "ERTACache, paper, 2x")
    rows = [
        {"name": name, "seconds": 1 + k, "speedup": 1.5, "operations": 2.0, "peak_bytes": peak if k == 3 else 1 << 20}
        for k, name in enumerate(names)
    ]
    measured = {"model": "FLUX", "size": {"name": "small"}, "steps": 30, "machine": "m", "rows": rows}
    result = {"family": "flux", "measured": measured, "full_size": None}
    text = tables.cost(result)
    assert "FLUX, scaled down (measured without a GPU); random weights, 30 steps, m." in text
    assert "| TeaCache | +68 MiB | 14.21 s | 1.84x | TeaCache | +1.0 MiB | 2.00 s | 1.50x | 2.00x |" in text
    assert f"| flux | m | {said} | +33.3 % |" in tables.costs([result])


def test_calibration_sets_are_nested_and_repeat_only_what_runs_out():
    assert sensitivity.repeated(["a", "b", "c"], 2) == ["a", "b"]
    assert sensitivity.repeated(["a", "b", "c"], 5) == ["a", "b", "c", "a", "b"]
    rows = [row([psnr], method="paper", size=size) for size, psnr in ((2, 30.0), (5, 34.8), (10, 36.0), (20, 35.0))]
    assert figures.stable_from(rows) == 20
    assert figures.stable_from(rows[:2]) == 5


def test_the_published_numbers_are_the_papers():
    assert published.speedups("opensora") == (1.55, 2.47)
    assert published.speedups("flux") == (1.86,)
    assert [part.psnr for part in published.ABLATION["wan"]] == sorted(p.psnr for p in published.ABLATION["wan"])
    for family, rows in published.COMPARISONS.items():
        full = published.FULL_RUN_LATENCY[family]
        assert all(full / r.latency == pytest.approx(r.speedup, rel=0.015) for r in rows if r.latency)
    last = {family: rows[-1] for family, rows in published.COMPARISONS.items()}
    assert all(
        last[family].psnr == pytest.approx(published.ABLATION[family][-1].psnr, abs=0.01) for family in ("wan", "flux")
    )


# All of it


@pytest.mark.slow  # two minutes for what changes with benchmarks/paper alone; its parts are tested above
def test_the_quick_form_writes_figures_and_the_page_and_goes_on_where_it_was(tmp_path: Path, capsys):
    def run(*experiments: str, model: str) -> None:
        main(list(experiments) or None, [model], out=None, page=None, work=tmp_path, quick=True)

    flux = ["table3", "figure2a", "figure2b", "figure3", "figure5", "figure6"]
    run(*flux, model="zoo:flux")
    run("table1", model="zoo:wan")
    results, page = tmp_path / "quick/results/paper", (tmp_path / "quick/paper.md").read_text()
    names = {path.stem for path in results.glob("*.json")}
    assert names == {f"{name}-flux" for name in flux} | {"table1-wan"}
    for name in names:
        assert json.loads((results / f"{name}.json").read_text())["counts"]["held_out"] == 2
    for image in flux[1:]:
        assert (tmp_path / f"quick/images/paper-{image}-flux.png").stat().st_size > 5_000
        assert f"](images/paper-{image}-flux.png)" in page
    assert "| ProfilingDiT | 2.01x | 22.02 | 0.7899 | 0.1256 |" in page
    assert "| +Error Rectification | 20.51 | 0.8962 | 0.3029 | paper |" in page

    table = json.loads((results / "table1-wan.json").read_text())
    ran = [line["rival"] for line in table["rows"]]
    assert ran == ["TeaCache", "ProfilingDiT", "ERTACache, as published", "ERTACache, aligned", "fewer steps"]
    for line in table["rows"][2:]:  # of 6 steps 2.17x leaves 2
        assert line["measured"]["flops"] == pytest.approx([1 / 3, 1 / 3], rel=0.02)

    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    begun = time.process_time()
    capsys.readouterr()
    run(*flux, model="zoo:flux")
    assert time.process_time() - begun < 20  # loading and drawing; nothing is generated
    assert "table3 is there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == before


def test_the_page_is_written_from_the_figures_alone(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    about = {"model": "flux", "family": "flux", "seed": 1, "machine": "m", "torch": "2", "diffusers": "0"}
    about |= {"arguments": {"num_inference_steps": 30, "true_cfg_scale": 4.0}}
    about |= {"counts": {"calibration": 16, "held_out": 2}}
    rows = [row([psnr], method="aligned", size=size) for size, psnr in ((2, 50.0), (100, 52.0))]
    found = {**about, "speedup": 1.86, "distinct": 64, "rows": rows}
    (results / "figure5-flux.json").write_text(json.dumps(found))
    write_page(results, tmp_path / "paper.md")
    text = (tmp_path / "paper.md").read_text()
    assert "| `aligned` | 50.0 dB with 2 | 52.0 dB with 100 | +2.00 (+2.00 to +2.00) | a gain | 100 prompts |" in text
    assert "Of the 100 prompts 64 are distinct" in text
    assert "| flux | 30 | 4.0 | 16 | 2 | m, torch 2, diffusers 0 |" in text
    assert "## Table 1" not in text
