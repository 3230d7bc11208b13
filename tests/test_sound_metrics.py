"""Metrics of sound, checked on tones whose distance is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ertacache.errors import MetricError
from ertacache.presenting.films import wav
from ertacache.runtime.call_results import pictures_of, sampling_rate_of, sound_of
from ertacache.sound_metrics import log_mel_distance, signal_to_error

RATE = 8000


def tone(hertz: float, loudness: float = 0.5, phase: float = 0.0) -> torch.Tensor:
    time = torch.arange(2 * RATE) / RATE
    return loudness * torch.sin(2 * math.pi * hertz * time + phase).repeat(1, 2, 1)


def test_an_error_of_a_tenth_is_twenty_decibels():
    assert signal_to_error(tone(440) * 1.1, tone(440)) == pytest.approx(20.0, abs=0.01)
    assert signal_to_error(tone(440), tone(440)) == 100.0


def test_log_mel_hears_pitch_and_loudness_but_no_phase():
    assert log_mel_distance(tone(440), tone(440), RATE) == 0.0
    assert log_mel_distance(tone(440, phase=1.0), tone(440), RATE) < 0.5
    assert signal_to_error(tone(440, phase=1.0), tone(440)) < 1.0
    assert log_mel_distance(tone(660), tone(440), RATE) > 5.0
    far, near = (log_mel_distance(tone(440, loudness), tone(440), RATE) for loudness in (0.25, 0.45))
    assert far > near > 0


def test_sounds_of_other_lengths_are_refused():
    with pytest.raises(MetricError, match="same shape"):
        signal_to_error(tone(440)[..., :100], tone(440))


def test_what_standard_and_modular_calls_return():
    clip, sound = torch.rand(1, 3, 3, 8, 8), tone(440)
    standard = SimpleNamespace(frames=clip, audio=sound)
    modular = SimpleNamespace(values={"videos": clip, "audio": sound[:, 0]})
    for result in (standard, modular):
        assert torch.equal(pictures_of(result), clip)
    assert torch.equal(sound_of(standard), sound)
    assert sound_of(modular).shape == (1, 1, 2 * RATE)
    assert sound_of(SimpleNamespace(images=clip)) is None


def test_the_sampling_rate_is_the_vocoders():
    vocoder, autoencoder = (SimpleNamespace(config=config) for config in ({"output_sampling_rate": 24000}, {}))
    assert sampling_rate_of(SimpleNamespace(vocoder=vocoder, audio_vae=autoencoder)) == 24000
    autoencoder.config["sample_rate"] = 16000
    assert sampling_rate_of(SimpleNamespace(vocoder=None, audio_vae=autoencoder)) == 16000


def test_a_sound_becomes_a_wave_file():
    written = wav(tone(440)[0], RATE)
    assert written[:4] == b"RIFF"
    assert len(written) == 44 + 2 * 2 * 2 * RATE
