"""The sound of a clip: every actor is a tone, higher as it stands higher in the frame, louder as it is larger.

Waveforms are float32 in -1 .. 1 at `RATE`. Spectrograms are what LTX-2's audio autoencoder and vocoder exchange:
logarithms of the amplitude in mel bands, here scaled so that -1 is silence and 1 a full tone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from training.clips import FRAMES, Clip, Track, tracks

RATE = 8000
"""Samples a second."""
HOP = 400
"""Samples from one spectrum to the next. The vocoder's convolutions repeat themselves with it: steady tones become
multiples of 20 Hz, the finer the longer it is."""
BANDS = 32
LOWEST, HIGHEST = 220.0, 880.0
"""Hertz, of a tone at the lower and at the upper edge of the frame."""
FRAME_RATE = 8.0
"""Frames of a clip in a second; the clip's last frame is its end."""
SPECTRA = 41
"""What the autoencoder makes of the 11 latents that the pipeline takes for 17 frames: 4 x 11 - 3."""
SAMPLES = SPECTRA * HOP
LOUDNESS = 1.4
"""Amplitude of a tone whose radius is the frame's width."""
QUIETEST = 3e-3
WINDOW, TRANSFORM = 640, 1024


def pitch(y: float | np.ndarray) -> float | np.ndarray:
    """Hertz, of an actor at ``y``: 0 is the upper edge of the frame, 1 the lower one; an octave is the same height."""
    return HIGHEST * (LOWEST / HIGHEST) ** np.clip(y, 0, 1)


def loudness(track: Track, time: float) -> float:
    """Amplitude 0 .. 1 of an actor's tone at ``time`` 0 .. 1 of the clip: its radius, less what is transparent."""
    here, radius = track.at(time)
    return LOUDNESS * radius * here.opacity


def tones(actors: Sequence[Track]) -> np.ndarray:
    """The waveform of actors: float32, (SAMPLES,). Frequencies are integrated, so that no phase ever jumps."""
    end = (FRAMES - 1) / FRAME_RATE
    instants = np.linspace(0, 1, 1 + round(4 * end * FRAME_RATE))  # between them, pitch and loudness change evenly
    seconds = np.arange(SAMPLES) / RATE
    sound = np.zeros(SAMPLES)
    for track in actors:
        heights = np.array([pitch(track.at(time)[0].y) for time in instants])
        frequency = np.interp(seconds, instants * end, heights)
        amplitude = np.interp(seconds, instants * end, [loudness(track, time) for time in instants])
        phase = 2 * np.pi * np.concatenate([[0], np.cumsum(frequency[:-1])]) / RATE
        sound += amplitude * np.cos(phase)  # even around the start, where spectra mirror it
    return sound.astype(np.float32)


def sound_clip(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """The waveform of the drawing that `draw_clip` makes with the same ``rng``; leaves it in the same state."""
    return tones(tracks(clip, rng))


@cache
def _bands() -> tuple[Tensor, Tensor]:
    """The window (WINDOW,), and the filters (TRANSFORM // 2 + 1, BANDS) for amplitudes of single tones."""
    filters = mel_filter_bank(TRANSFORM // 2 + 1, BANDS, 110.0, 1500.0, RATE)
    window = torch.hann_window(WINDOW)
    return window, torch.from_numpy(filters).float() * (2 / window.sum())


def log_mel(waveform: Tensor) -> Tensor:
    """The scaled logarithmic spectrogram of (..., n) samples: (..., n // HOP, BANDS), about -1 .. 1."""
    window, filters = _bands()
    flat = waveform.reshape(-1, waveform.shape[-1])
    spectrum = torch.stft(flat, TRANSFORM, HOP, WINDOW, window, return_complex=True)  # centred: one more than n // HOP
    power = spectrum.real.square() + spectrum.imag.square()
    amplitude = (power + 1e-10).sqrt()[..., :-1].transpose(-1, -2) @ filters
    scaled = 1 - 2 * torch.log(amplitude.clamp(min=QUIETEST)) / math.log(QUIETEST)
    return scaled.reshape(*waveform.shape[:-1], *scaled.shape[-2:])


def spectrograms(waveforms: np.ndarray) -> Tensor:
    """What the autoencoder takes for (n, SAMPLES): (n, 2, SPECTRA, BANDS), the one channel twice."""
    rows = [
        log_mel(torch.from_numpy(np.array(chunk))) for chunk in np.array_split(waveforms, 1 + len(waveforms) // 256)
    ]
    return torch.cat(rows)[:, None].expand(-1, 2, -1, -1)
