"""VBench: the clips as its package wants them, the run of a stand-in for it, and scores as its own script has them."""

import importlib.util
import json
import os
import sys
import textwrap

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.vbench import clips, layout, runner, scores
from benchmarks.vbench.__main__ import app
from benchmarks.vbench.dimensions import DIMENSIONS, VBenchError, checked
from ertacache import zoo

# As in the package's list: a suite of prompts serves several dimensions, and a prompt may stand there twice.
ENTRIES = [
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a person eating a burger", "dimension": ["subject_consistency", "dynamic_degree"]},
    {"prompt_en": "a red bicycle", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "a rock-carved façade, oil painting", "dimension": ["appearance_style"]},
    {"prompt_en": "a rock-carved façade, oil painting", "dimension": ["overall_consistency", "imaging_quality"]},
    {"prompt_en": "a green bicycle", "dimension": ["color"], "auxiliary_info": {"color": {"color": "green"}}},
]
MEASURED = {
    "subject_consistency": 0.9631274,
    "background_consistency": 0.9718852,
    "aesthetic_quality": 0.6163917,
    "imaging_quality": 0.6641253,
    "object_class": 0.8861551,
    "multiple_objects": 0.6147866,
    "color": 0.8912743,
    "spatial_relationship": 0.6923648,
    "scene": 0.3961483,
    "temporal_style": 0.2418537,
    "overall_consistency": 0.2594161,
    "human_action": 0.946,
    "temporal_flickering": 0.9942163,
    "motion_smoothness": 0.9816475,
    "dynamic_degree": 0.6555556,
    "appearance_style": 0.2098415,
}
# What scripts/cal_final_score.py of github.com/Vchitect/VBench, at commit 45e79ec14e69a2187202c675d2dbce1a71843d53,
# prints for MEASURED in a file as the package writes it.
QUALITY, SEMANTIC, TOTAL = 0.8395467059807716, 0.7359632346337641, 0.8188300117113702

needs_ffmpeg = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed"
)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def refused(done):
    """The command ended with one clear error."""
    assert done.exit_code == 2, done.output
    assert done.output.count("error:") == 1
    assert "Traceback" not in done.output
    return done.output


def write_results(path, measured):
    clip = {"video_path": "videos/a red bicycle-0.mp4", "video_results": 0.5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: [value, [clip]] for name, value in measured.items()}, indent=4))
    return path


# The prompts and the clips


def write_list(folder, entries=ENTRIES):
    path = folder / "VBench_full_info.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_dimension_has_its_prompts_and_a_limit_cuts_each_dimension(tmp_path):
    entries = layout.read_prompts(write_list(tmp_path))
    assert entries == ENTRIES
    assert layout.chosen(entries, ["imaging_quality"]) == [ENTRIES[4]]
    assert layout.chosen(entries, ["color", "dynamic_degree"]) == [ENTRIES[1], ENTRIES[2], ENTRIES[5]]
    assert layout.chosen(entries, ["color", "dynamic_degree"], 1) == ENTRIES[1:3]
    with pytest.raises(VBenchError, match=r"none for a dimension.*scene"):
        layout.chosen(entries, ["scene"])
    assert layout.shortened(entries) == [name for name in DIMENSIONS if any(name in e["dimension"] for e in ENTRIES)]


def test_every_prompt_has_five_clips_and_temporal_flickering_25():
    samples = layout.samples_of(ENTRIES)
    counts = {}
    for sample in samples:
        counts[sample.prompt] = counts.get(sample.prompt, 0) + 1
    assert counts == {e["prompt_en"]: 25 if "temporal_flickering" in e["dimension"] else 5 for e in ENTRIES}
    assert [s.name for s in samples if s.prompt == "a red bicycle"] == [f"a red bicycle-{k}.mp4" for k in range(5)]
    assert len({s.name for s in samples}) == len(samples) == 25 + 4 * 5
    assert len(layout.samples_of(ENTRIES, to_filter=False)) == 5 * 5


def test_seeds_differ_from_clip_to_clip_and_stay_whatever_else_is_exported():
    every = {sample.name: sample.seed for sample in layout.samples_of(ENTRIES)}
    assert len(set(every.values())) == len(every)
    assert all(0 <= seed < 2**32 for seed in every.values())
    assert {s.name: s.seed for s in layout.samples_of(ENTRIES[2:3])}.items() <= every.items()
    assert every["a red bicycle-0.mp4"] == 1724718016  # figures that were measured depend on it
    assert not set(every.values()) & {sample.seed for sample in layout.samples_of(ENTRIES, seed=1)}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '[{"prompt_en": "a"}]', '[{"prompt_en": "a", "dimension": ["b"]}]']
)
def test_other_files_are_no_list_of_prompts(tmp_path, content):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(VBenchError, match=r"list.*VBench_full_info\.json"):
        layout.read_prompts(path)


def test_names_of_dimensions_are_checked():
    assert checked(["color", "scene", "color"]) == ["color", "scene"]
    assert checked([]) == list(DIMENSIONS)
    with pytest.raises(VBenchError, match=r"no such dimension.*colour.*Choose among"):
        checked(["colour"])


def test_a_folder_takes_further_prompts_but_no_clips_of_other_settings(tmp_path):
    settings = {"steps": 30, "arguments": {"size": (48, 48)}}
    layout.claim(tmp_path, {**settings, "steps": 15}, ENTRIES)  # and fails before its first clip
    layout.claim(tmp_path, settings, ENTRIES[:2])
    (tmp_path / layout.VIDEOS).mkdir()
    (tmp_path / layout.VIDEOS / "a red bicycle-0.mp4").touch()
    layout.claim(tmp_path, settings, ENTRIES[1:4])
    assert layout.read_prompts(tmp_path / layout.PROMPTS) == ENTRIES[:4]
    with pytest.raises(VBenchError, match="steps was 30 and is 15"):
        layout.claim(tmp_path, {**settings, "steps": 15}, ENTRIES)
    assert layout.read_prompts(tmp_path / layout.PROMPTS) == ENTRIES[:4]
    (tmp_path / layout.EXPORT).unlink()
    with pytest.raises(VBenchError, match="steps was None and is 30"):
        layout.claim(tmp_path, settings, ENTRIES)


def ramp(frames=5, height=32, width=48):
    """A clip whose frames grow lighter, and redder to the right; smooth, so that compression keeps it."""
    clip = np.zeros((frames, height, width, 3))
    clip += np.linspace(0.2, 0.8, frames)[:, None, None, None]
    clip[..., 0] += np.linspace(0, 0.2, width)
    return clip


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["float", "uint8", "tensor"])
def test_a_clip_is_read_back_as_it_was(tmp_path, kind):
    import imageio.v3 as imageio

    clip = {
        "float": ramp(),
        "uint8": (ramp() * 255).round().astype(np.uint8),
        "tensor": torch.tensor(ramp(), dtype=torch.float32),
    }[kind]
    path = tmp_path / "videos" / "a fox, at dawn.-0.mp4"
    clips.write_clip(clip, path, fps=8)
    pixels = imageio.imread(path)
    assert pixels.shape == (5, 32, 48, 3)
    assert np.abs(pixels / 255 - ramp()).max() < 0.03
    assert imageio.immeta(path)["fps"] == 8
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((5, 3, 32, 48)),
        np.zeros((32, 48, 3)),
        np.zeros((0, 32, 48, 3)),
        np.zeros((5, 31, 48, 3)),
        np.zeros((5, 32, 48, 3), dtype=np.int64),
        np.full((5, 32, 48, 3), np.nan),
    ],
    ids=["channels first", "no frames axis", "no frame", "odd height", "integers", "NaN"],
)
def test_what_is_no_clip_is_not_written(tmp_path, clip):
    with pytest.raises(VBenchError, match=r"\(given: .*\)\. "):
        clips.write_clip(clip, tmp_path / "a-0.mp4", fps=8)
    assert not os.listdir(tmp_path)


def test_without_imageio_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VBenchError, match=r"no imageio_ffmpeg.*ertacache\[cli\]"):
        clips.write_clip(ramp(), tmp_path / "a-0.mp4", fps=8)


@needs_ffmpeg
def test_an_export_goes_on_where_it_was_interrupted(tmp_path):
    samples, asked, told = layout.samples_of(ENTRIES[2:3]), [], []

    def generate(sample):
        asked.append(sample.index)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ramp(frames=2)

    with pytest.raises(KeyboardInterrupt):
        clips.export(samples, generate, tmp_path, fps=8)
    assert sorted(os.listdir(tmp_path)) == ["a red bicycle-0.mp4", "a red bicycle-1.mp4"]
    assert clips.export(samples, generate, tmp_path, fps=8, on_clip=lambda: told.append(1)) == 3
    assert asked == [0, 1, 2, 2, 3, 4]
    assert sorted(os.listdir(tmp_path)) == [sample.name for sample in samples]
    assert len(told) == 5


# The run of the package


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package on the path: its arguments, its file names, its files; scores without a meaning."""
    files = {
        "__init__.py": "",
        "launch/__init__.py": "",
        "cli/__init__.py": "",
        "VBench_full_info.json": json.dumps(ENTRIES),
        "launch/evaluate.py": """
            import argparse, datetime, json, os

            def main():
                parser = argparse.ArgumentParser()
                for name in ("videos_path", "output_path", "full_json_dir"):
                    parser.add_argument(f"--{name}", required=True)
                parser.add_argument("--dimension", nargs="+", required=True)
                given = parser.parse_args()
                dimension = given.dimension[0]
                with open(os.environ["CALLS"], "a") as calls:
                    calls.write(dimension + "\\n")
                print("start evaluation of", dimension)
                if dimension == os.environ.get("FAILS"):
                    raise RuntimeError("no kernel image is available")
                if dimension == os.environ.get("STAYS_SILENT"):
                    return
                with open(given.full_json_dir, encoding="utf-8") as file:
                    entries = [e for e in json.load(file) if dimension in e["dimension"]]
                there = os.listdir(given.videos_path)
                ending = os.path.splitext(there[0])[1]
                for entry in entries:
                    names = [f"{entry['prompt_en']}-{k}{ending}" for k in range(5)]
                    entry["video_list"] = [os.path.join(given.videos_path, n) for n in names if n in there]
                judged = [clip for entry in entries for clip in entry["video_list"]]
                value = len(judged) / 100
                results = {dimension: [value, [{"video_path": c, "video_results": value} for c in judged]]}
                name = f"results_{datetime.datetime.now():%Y-%m-%d-%H:%M:%S.%f}"
                for kind, content in (("full_info", entries), ("eval_results", results)):
                    with open(os.path.join(given.output_path, f"{name}_{kind}.json"), "w") as file:
                        json.dump(content, file)

            if __name__ == "__main__":
                main()
        """,
        # This filter finds that the clips with an even number stand still.
        "cli/vbench.py": """
            import argparse, os, shutil

            def main():
                parser = argparse.ArgumentParser()
                parser.add_argument("command", choices=["static_filter"])
                parser.add_argument("--videos_path", required=True)
                parser.add_argument("--result_path", required=True)
                given = parser.parse_args()
                kept = os.path.join(given.result_path, "filtered_videos")
                os.makedirs(kept)
                if os.environ.get("ALL_MOVE"):
                    return
                prompt = "In a still frame, a stop sign"
                for k in range(5):
                    clip = os.path.join(given.videos_path, f"{prompt}-{2 * k}.mp4")
                    shutil.copy(clip, os.path.join(kept, f"{prompt}-{k}.mp4"))
        """,
    }
    root = tmp_path / "site"
    for name, text in files.items():
        path = root / "vbench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    calls = tmp_path / "calls.txt"
    calls.touch()
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("CALLS", str(calls))
    return calls


@pytest.fixture
def exported(tmp_path):
    """A folder as an export leaves it; the clips say their names."""
    folder = tmp_path / "out" / "full"
    layout.claim(folder, {}, ENTRIES)
    (folder / layout.VIDEOS).mkdir()
    for sample in layout.samples_of(ENTRIES):
        (folder / layout.VIDEOS / sample.name).write_text(sample.name)
    return folder


def test_the_package_is_asked_for_its_list(package):
    path = runner.prompt_list_of(sys.executable)
    assert path.name == "VBench_full_info.json"
    assert layout.read_prompts(path) == ENTRIES


def test_every_dimension_is_judged_once_and_again_when_its_prompts_are_others(package, exported):
    told = []
    names = ["temporal_flickering", "color", "overall_consistency"]
    runner.evaluate(exported, names, sys.executable, on_dimension=lambda *it: told.append(it))
    assert package.read_text().split() == ["color", "overall_consistency", "temporal_flickering"]
    found = scores.read_scores(exported)
    assert found.measured == {"color": 0.1, "overall_consistency": 0.05, "temporal_flickering": 0.05}
    kept = exported / "results/temporal_flickering/filtered_videos"
    assert (kept / "In a still frame, a stop sign-4.mp4").read_text() == "In a still frame, a stop sign-8.mp4"
    assert "start evaluation of color" in (exported / "results/color/log.txt").read_text()

    runner.evaluate(exported, names, sys.executable, on_dimension=lambda *it: told.append(it))
    assert len(package.read_text().split()) == 3
    assert told == [(name, found) for found in (False, True) for name in (names[1:] + names[:1], names)[found]]

    layout.claim(exported, {}, [{"prompt_en": "a blue car", "dimension": ["color"]}])
    for k in range(5):
        (exported / layout.VIDEOS / f"a blue car-{k}.mp4").touch()
    runner.evaluate(exported, names, sys.executable)
    assert package.read_text().split()[3:] == ["color"]
    assert scores.read_scores(exported).measured["color"] == 0.15


def test_a_result_that_was_cut_off_or_filtered_otherwise_is_none(package, exported):
    names = ["color", "temporal_flickering"]
    runner.evaluate(exported, names, sys.executable)
    (result,) = (exported / "results/color").glob(scores.RESULT_FILES)
    result.write_text(result.read_text()[:20])
    with pytest.raises(VBenchError, match="no result file"):
        scores.read_scores(exported)
    runner.evaluate(exported, names, sys.executable, static_filter=False)
    assert package.read_text().split()[2:] == ["color", "temporal_flickering"]


def test_one_failure_leaves_the_others_their_results_and_says_what_the_log_says(package, exported, monkeypatch):
    monkeypatch.setenv("FAILS", "color")
    with pytest.raises(VBenchError) as caught:
        runner.evaluate(exported, ["color", "imaging_quality"], sys.executable)
    assert "exit status 1" in str(caught.value)
    assert "(color)" in str(caught.value)
    assert str(caught.value).endswith("RuntimeError: no kernel image is available")
    assert scores.read_scores(exported).measured == {"imaging_quality": 0.05}

    monkeypatch.delenv("FAILS")
    runner.evaluate(exported, ["color", "imaging_quality"], sys.executable)
    assert package.read_text().split() == ["color", "imaging_quality", "color"]
    assert "no kernel image" in (exported / "results/color/log.txt").read_text()  # the log of every attempt is kept


def test_success_without_a_result_is_a_failure(package, exported, monkeypatch):
    monkeypatch.setenv("STAYS_SILENT", "color")
    with pytest.raises(VBenchError, match=r"left no result[\s\S]*start evaluation of color"):
        runner.evaluate(exported, ["color"], sys.executable)


def test_a_filter_that_keeps_nothing_is_a_failure(package, exported, monkeypatch):
    monkeypatch.setenv("ALL_MOVE", "1")
    with pytest.raises(VBenchError, match="static filter kept no clip"):
        runner.evaluate(exported, ["temporal_flickering"], sys.executable)
    assert not package.read_text()


def test_clips_that_are_missing_and_other_files_are_told_before_anything_runs(package, exported):
    (exported / layout.VIDEOS / "a red bicycle-3.mp4").unlink()
    with pytest.raises(VBenchError, match=r"1 of 10 clips are missing.*a red bicycle-3\.mp4"):
        runner.evaluate(exported, ["color"], sys.executable)
    (exported / layout.VIDEOS / ".a red bicycle-3.mp4.x.partial").touch()
    with pytest.raises(VBenchError, match="nothing else lies there"):
        runner.evaluate(exported, ["imaging_quality"], sys.executable)
    assert not package.read_text()


def test_a_missing_interpreter_and_a_missing_package_are_told(exported, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    output = refused(run("run", exported, "--python", tmp_path / "nowhere/bin/python", "--dimension", "color"))
    assert "no such Python interpreter" in output
    output = refused(run("run", exported, "--dimension", "color"))
    assert "cannot be imported" in output
    assert "No module named 'vbench'" in output
    output = refused(run("export", "zoo:wan", "--out", tmp_path / "new"))
    assert "vbench is not installed" in output
    assert "--prompt-list" in output


# The scores


@pytest.mark.parametrize("files", ["one", "one for each dimension"])
def test_scores_are_those_of_the_official_script(tmp_path, files):
    if files == "one":
        where = write_results(tmp_path / "all_eval_results.json", MEASURED)
    else:
        where = tmp_path
        for name, value in MEASURED.items():
            write_results(tmp_path / name / f"{name}_eval_results.json", {name: value})
    found = scores.read_scores(where)
    assert found.measured == MEASURED
    assert found.missing == []
    assert found.quality == pytest.approx(QUALITY, abs=1e-12)
    assert found.semantic == pytest.approx(SEMANTIC, abs=1e-12)
    assert found.total == pytest.approx(TOTAL, abs=1e-12)
    assert found.normalised["scene"] == pytest.approx(0.3961483 / 0.8222)


def test_a_missing_dimension_is_named_and_leaves_no_total():
    found = scores.Scores({name: value for name, value in MEASURED.items() if name != "scene"})
    assert found.missing == ["scene"]
    assert found.quality == pytest.approx(QUALITY, abs=1e-12)
    assert found.semantic is None
    assert found.total is None


def test_the_newest_result_of_a_dimension_counts(tmp_path):
    for day, value in (("02", 0.7), ("01", 0.6)):
        write_results(tmp_path / f"results_2026-01-{day}-10:00:00_eval_results.json", {"color": value})
    assert scores.read_scores(tmp_path).measured == {"color": 0.7}


@pytest.mark.parametrize("value", [float("nan"), 66.4, -0.1])
def test_values_that_no_dimension_can_have_are_refused(value):
    with pytest.raises(VBenchError, match=r"outside of 0 \.\. 1"):
        scores.Scores({"imaging_quality": value})


@pytest.mark.parametrize("content", ["[]", '{"color": 0.5}', '{"color": []}', '{"color": ["a", []]}', "{"])
def test_other_files_are_no_results(tmp_path, content):
    path = tmp_path / "a_eval_results.json"
    path.write_text(content)
    with pytest.raises(VBenchError, match="no result file"):
        scores.read_scores(path)
    with pytest.raises(VBenchError, match="of no dimension"):
        scores.read_scores(write_results(path, {"colour": 0.5}))


def test_the_table_shows_runs_side_by_side(tmp_path):
    write_results(tmp_path / "full/results/all_eval_results.json", MEASURED)
    write_results(tmp_path / "other/results/all_eval_results.json", {**MEASURED, "color": 0.8812743})
    short = {name: value for name, value in MEASURED.items() if name != "scene"}
    write_results(tmp_path / "b/results/all_eval_results.json", short)
    layout.claim(tmp_path / "b", {}, ENTRIES)
    out = tmp_path / "table.md"
    done = run("scores", tmp_path / "full", f"aligned={tmp_path / 'other'}", f"2x={tmp_path / 'b'}", "--out", out)
    assert done.exit_code == 0, done.output
    assert done.output == out.read_text()
    lines = done.output.splitlines()
    assert lines[:2] == ["| VBench, % | full | aligned | 2x |", "|---|---|---|---|"]
    assert lines[2] == "| **total** | 81.88 | 81.86 (-0.02) | - |"
    assert lines[3] == "| **quality** | 83.95 | 83.95 (+0.00) | 83.95 (+0.00) |"
    assert "| color | 89.13 | 88.13 (-1.00) | 89.13 (+0.00) |" in lines
    assert "| scene | 39.61 | 39.61 (+0.00) | - |" in lines
    assert "2x lacks scene." in lines
    assert "2x is of a part of the prompts; it compares with no published score." in lines
    assert len(lines) == 2 + 3 + 16 + 4


def test_bad_input_of_the_commands_is_one_clear_error(tmp_path, exported):
    (tmp_path / "none").mkdir()
    assert "there are no results" in refused(run("scores", tmp_path / "none"))
    assert "two runs have one name" in refused(run("scores", tmp_path / "a/full", tmp_path / "b/full"))
    assert "the list of prompts cannot be read" in refused(run("run", tmp_path / "none"))
    assert "no such dimension" in refused(run("run", exported, "--dimension", "colour"))
    given = ["--out", tmp_path / "new", "--prompt-list", write_list(tmp_path)]
    assert "no such dimension" in refused(run("export", "zoo:wan", *given, "--dimension", "colour"))
    assert "none for a dimension" in refused(run("export", "zoo:wan", *given, "--dimension", "scene"))
    assert "the model 'some/model' cannot be loaded" in refused(
        run("export", "some/model", *given, "--dimension", "color")
    )
    assert not (tmp_path / "new").exists()


# From a pipeline to a table


@needs_ffmpeg
@pytest.mark.skipif("wan" not in zoo.available(), reason="the small video pipelines come with a checkout only")
def test_from_a_pipeline_to_a_table(package, tmp_path):
    out = tmp_path / "few"
    command = [
        "export",
        "zoo:wan",
        "--steps",
        1,
        "--dimension",
        "color",
        "--prompts",
        1,
        "--out",
        out,
        "--set",
        "num_frames=5",
    ]
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert "5 clips made, 0 found" in done.output
    assert sorted(os.listdir(out / "videos")) == [f"a red bicycle-{k}.mp4" for k in range(5)]
    assert len({path.read_bytes() for path in (out / "videos").iterdir()}) == 5  # each from noise of its own
    assert "0 clips made, 5 found" in run(*command).output

    done = run("run", out)
    assert done.output == "color: judged\n", done.output
    assert run("run", out).output == "color: judged before\n"
    assert "| color | 5.00 |" in run("scores", out).output


def test_a_pipeline_of_pictures_is_refused(package, tmp_path):
    output = refused(run("export", "zoo:flux", "--steps", 1, "--dimension", "color", "--out", tmp_path / "pictures"))
    assert "VBench judges clips" in output


def test_the_help_says_how_to_go_about_it():
    done = run("--help")
    assert done.exit_code == 0
    for word in ("pip install vbench", "export", "run", "scores", "--prompts"):
        assert word in done.output
