"""The sound of a clip: its pitch is the actors' height, its loudness their size, in step with the frames."""

import numpy as np
import pytest
import torch

from training.clips import FRAMES, PIXELS, Actor, Clip, draw_clip, pose, sample_clip, tracks
from training.data import drawn_on_disk, sounds_on_disk
from training.families import FAMILIES, Sounding
from training.scenes import Shape, backdrop, paint
from training.sounds import (
    BANDS,
    FRAME_RATE,
    HIGHEST,
    HOP,
    LOWEST,
    RATE,
    SAMPLES,
    SPECTRA,
    log_mel,
    pitch,
    sound_clip,
    spectrograms,
)

SIZES = {"small": 0.19, "large": 0.26}


def clip_of(*motions, size="large"):
    colors = ("red", "blue")[: len(motions)]
    actors = tuple(Actor(Shape("star", color, "", size), motion) for motion, color in zip(motions, colors, strict=True))
    return Clip(actors, "", "mint")


def frequency(sound, second, width=0.25):
    """The strongest frequency around a time, hertz."""
    start = max(int((second - width / 2) * RATE), 0)
    piece = sound[start : start + int(width * RATE)]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 1 << 15))
    return np.argmax(spectrum) * RATE / (1 << 15)


def loud(sound, second, width=0.2):
    start = max(int((second - width / 2) * RATE), 0)
    return np.sqrt(2 * np.square(sound[start : start + int(width * RATE)]).mean())


def drawn_as_before(clip, rng):
    """How clips were drawn before sound came: `draw_clip` of the first pipelines."""
    ground = backdrop(clip.background, clip.background_color, np.zeros(2), PIXELS)
    rows = (0.5,) if len(clip.actors) == 1 else (0.27, 0.73)
    places = [np.array([0.5, row]) + rng.uniform(-0.03, 0.03, 2) for row in rows]
    starts = [rng.uniform(-0.2, 0.2) for _ in rows]
    frames = np.empty((FRAMES, PIXELS, PIXELS, 3), np.uint8)
    for index in range(FRAMES):
        canvas = ground.copy()
        for actor, (x, y), start in zip(clip.actors, places, starts, strict=True):
            at = pose(actor.motion, index / (FRAMES - 1), x, y)
            radius = at.scale * SIZES[actor.shape.size] * (0.85 if len(rows) == 2 else 1.0)
            paint(canvas, actor.shape, np.array([at.x, at.y]), radius, start + at.turn, at.opacity)
        frames[index] = np.clip(canvas * 255 + 0.5, 0, 255)
    return frames


def test_frames_are_what_they_were_before_they_had_sound():
    for seed in range(12):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        clip = sample_clip(rng, "training")
        assert sample_clip(other, "training") == clip
        assert np.array_equal(draw_clip(clip, rng), drawn_as_before(clip, other))
        assert rng.random() == other.random()


def test_frames_and_sound_share_their_random_numbers():
    clip = clip_of("moving up", "growing")
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    sound = sound_clip(clip, rng)
    draw_clip(clip, other)
    assert rng.random() == other.random()
    assert np.array_equal(sound, sound_clip(clip, np.random.default_rng(3)))
    assert not np.array_equal(sound, sound_clip(clip, np.random.default_rng(4)))


def test_pitch_is_a_scale_of_octaves_up_the_frame():
    assert pitch(1.0) == LOWEST
    assert pitch(0.0) == HIGHEST
    assert pitch(0.5) == pytest.approx(440)


@pytest.mark.parametrize(("motion", "seconds"), [("moving up", (0.2, 1, 1.8)), ("bouncing", (0.5, 1, 1.5))])
def test_pitch_follows_height(motion, seconds):
    clip = clip_of(motion)
    sound = sound_clip(clip, np.random.default_rng(0))
    track = tracks(clip, np.random.default_rng(0))[0]
    for second in seconds:
        heard = frequency(sound, second, 0.12 if motion == "bouncing" else 0.25)
        assert heard == pytest.approx(pitch(track.at(second / 2)[0].y), rel=0.06)


def test_two_actors_are_two_tones():
    sound = sound_clip(clip_of("turning clockwise", "moving left"), np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    strong = np.fft.rfftfreq(len(sound), 1 / RATE)[spectrum > 0.3 * spectrum.max()]
    expected = [pitch(track.y) for track in tracks(clip_of("growing", "growing"), np.random.default_rng(0))]
    assert all(np.abs(strong - hertz).min() < 3 for hertz in expected)
    assert all(min(abs(f - hertz) for hertz in expected) < 6 for f in strong)


def test_loudness_follows_size_and_opacity():
    def sound(motion, size="large"):
        return sound_clip(clip_of(motion, size=size), np.random.default_rng(0))

    large, small, growing, going = (
        sound("moving left"),
        sound("moving left", "small"),
        sound("growing"),
        sound("disappearing"),
    )
    assert loud(large, 1) / loud(small, 1) == pytest.approx(SIZES["large"] / SIZES["small"], rel=0.01)
    assert loud(growing, 1.9) / loud(growing, 0.1) == pytest.approx((1 + 0.9 * 0.35) / (1 - 0.9 * 0.35), rel=0.03)
    assert loud(going, 1.98, 0.02) < 0.01 < loud(going, 0.1)


def test_no_phase_jumps_and_no_clipping():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sound = sound_clip(sample_clip(rng, "training"), rng)
        assert (sound.shape, sound.dtype) == ((SAMPLES,), np.float32)
        assert np.abs(sound).max() <= 1
        assert np.abs(np.diff(sound)).max() < 1.1 * 2 * np.pi * HIGHEST / RATE


def test_spectrograms_show_the_tone_in_one_band_between_silence_and_full():
    clip = clip_of("growing")
    values = spectrograms(sound_clip(clip, np.random.default_rng(0))[None])
    assert values.shape == (1, 2, SPECTRA, BANDS)
    assert torch.equal(values[:, 0], values[:, 1])
    assert float(values.min()) == -1
    assert 0.5 < float(values.max()) < 1.1
    assert int(values[0, 0].argmax(-1).float().std()) == 0
    assert torch.equal(log_mel(torch.zeros(3, 10 * HOP)), -torch.ones(3, 10, BANDS))


def test_the_pipeline_takes_as_many_latents_of_sound_as_the_data_have():
    family = FAMILIES["ltx2"]
    assert isinstance(family, Sounding)
    assert not isinstance(FAMILIES["wan"], Sounding)
    torch.manual_seed(0)
    parts = family.sound_parts()
    waveforms = sound_clip(clip_of("growing"), np.random.default_rng(0))[None]
    values = family.spectrograms(waveforms)
    with torch.no_grad():
        latents = family.sound_latents(parts["audio_vae"], values)
        again = parts["audio_vae"].decode(parts["audio_vae"].encode(values).latent_dist.mean).sample
        assert parts["vocoder"](again).shape == (1, 2, SAMPLES)
    assert again.shape == values.shape
    assert latents.shape[1] == round(FRAMES / FRAME_RATE * RATE / HOP / 4)


def test_sounds_on_disk_are_those_of_the_drawn_clips(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.CHUNK", 3)
    family = FAMILIES["ltx2"]
    pixels, captions = drawn_on_disk(family, tmp_path, 6)
    waveforms = sounds_on_disk(family, tmp_path, 6)
    assert waveforms.shape == (6, SAMPLES)
    rng = np.random.default_rng([1, len("training")])
    clips = [family.sample(rng, "training") for _ in range(3)]
    assert [clip.caption for clip in clips] == captions[3:]
    state = rng.bit_generator.state
    for clip, frames in zip(clips, pixels[3:], strict=True):
        assert np.array_equal(family.draw(clip, rng), frames)
    rng.bit_generator.state = state
    for clip, waveform in zip(clips, waveforms[3:], strict=True):
        assert np.array_equal(family.sound(clip, rng), waveform)
