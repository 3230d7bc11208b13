"""What is known of one setting: the sums over its full generations, in one small file that processes may share."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from filelock import FileLock
from torch import Tensor

from ertacache.errors import PolicyFileError
from ertacache.files import entries, reading, save
from ertacache.method.worthwhile import LARGE_ERROR
from ertacache.value_checks import each, instance, invalid, normalized, number, text, whole

LOCK_SECONDS = 60.0
"""How long a process waits for another one that writes."""
AUDITS = 256
"""So many of the newest audits are kept."""
NO_AUDIT = "no audit yet (audit=0.02 has one generation in fifty run in full as well)"
_FILES = "learnt-*.safetensors"


@dataclass(frozen=True, eq=False)
class Learnt:
    """What is known of one setting.

    Args:
        setting: what it is, in words.
        gram: dot products of the outputs of all pairs of steps, summed over the samples of full generations: (T, T),
            float64.
        generations: how many full generations were learnt from.
        samples: how many samples they had; a batch counts as several.
        audits: of audited generations, how far the policy in force was from the full run: the relative error of the
            final latent, newest last.
        audited_steps: how many steps that policy computed, for each of these.
        streams: the ``gram`` of each further latent that the loop steps, such as sound.

    Raises:
        PolicyFileError: if these do not fit together.
    """

    setting: str
    gram: Tensor
    generations: int = 1
    samples: int = 1
    audits: tuple[float, ...] = ()
    audited_steps: tuple[int, ...] = ()
    streams: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        wrong, count = invalid("record of a learnt setting"), partial(whole, at_least=1)
        normalized(self, wrong, setting=text, generations=count, samples=count)
        normalized(self, wrong, gram=instance(Tensor, "float64"), audits=each(partial(number, at_least=0)))
        normalized(self, wrong, audited_steps=each(count))
        if len(self.audits) != len(self.audited_steps):
            raise wrong(f"{len(self.audits)} audits of {len(self.audited_steps)} policies")
        normalized(self, wrong, streams=each(instance(Tensor, "float64")))
        for gram in (self.gram, *self.streams):
            if gram.dtype != torch.float64 or gram.ndim != 2 or gram.shape != self.gram.T.shape:
                raise wrong(f"a Gram matrix of shape {tuple(gram.shape)}")
            if not bool(gram.isfinite().all()):
                raise wrong("a Gram matrix that is not finite")

    def __repr__(self) -> str:
        known = f"{self.generations} full generations, {self.samples} samples, {len(self.audits)} audits"
        return f"Learnt({self.setting}: {known})"

    def __add__(self, other: Learnt) -> Learnt:
        """Both together: sums of sums."""
        return replace(
            self,
            gram=self.gram + other.gram,
            streams=tuple(one + two for one, two in zip(self.streams, other.streams, strict=False)),
            generations=self.generations + other.generations,
            samples=self.samples + other.samples,
            audits=(*self.audits, *other.audits)[-AUDITS:],
            audited_steps=(*self.audited_steps, *other.audited_steps)[-AUDITS:],
        )

    def errors(self, computed: int) -> list[float]:
        """What the audits of policies with so many computed steps found, newest last."""
        return [error for error, steps in zip(self.audits, self.audited_steps, strict=True) if steps == computed]

    def audited(self, computed: int) -> str:
        """What the audits of policies with so many computed steps found, in words; nothing if there was none."""
        errors = self.errors(computed)
        if not errors:
            return ""
        mean = fmean(errors)
        worst = f", {max(errors):.4f} at most" if len(errors) > 1 else ""
        large = "; that is large, so expect pictures that differ visibly" if mean > LARGE_ERROR else ""
        return (
            f"relative error of the final latent {mean:.4f} in the mean of {len(errors)} "
            f"audit{'s' * (len(errors) != 1)}{worst}{large}"
        )

    def told(self, computed: int) -> str:
        """What is known of a policy with so many computed steps, in words."""
        known = f"learnt from {self.generations} full generation{'s' * (self.generations != 1)}"
        audits = self.audited(computed) or NO_AUDIT
        return f"{known}; {audits}"


class LearntFolder:
    """One file for each setting.

    Args:
        folder: where; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The file of a setting."""
        return self.folder / _FILES.replace("*", key)

    def files(self) -> list[Path]:
        """The files of all settings."""
        return sorted(self.folder.glob(_FILES))

    def all(self) -> dict[str, Learnt]:
        """All that can be read, by file name."""
        found = {path.name: self.find(path.stem.removeprefix("learnt-")) for path in self.files()}
        return {name: known for name, known in found.items() if known is not None}

    def find(self, key: str) -> Learnt | None:
        """What is known of a setting; None if nothing is, or its file is damaged, which is then made anew."""
        try:
            return read(self.path(key))
        except (FileNotFoundError, PolicyFileError):
            return None

    def add(self, key: str, more: Learnt) -> Learnt:
        """Add to what is known, also while other processes do.

        The file is read, added to and replaced whole under a lock, which the system lets go if a process is killed.

        Returns:
            All that is known now.

        Raises:
            OutputError: if the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(os.fspath(self.path(key)) + ".lock", timeout=LOCK_SECONDS):
            known = self.find(key)
            changed = more if known is None else known + more
            write(changed, self.path(key))
        return changed


def write(learnt: Learnt, path: Path) -> None:
    """Write one safetensors file, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    plain = {name: getattr(learnt, name) for name in ("setting", "generations", "samples", "audits", "audited_steps")}
    save(path, "learnt", plain, {_gram_name(k): gram for k, gram in enumerate((learnt.gram, *learnt.streams))})


def _gram_name(stream: int) -> str:
    return f"gram.{stream}" if stream else "gram"


def read(path: Path) -> Learnt:
    """Read what `write` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        PolicyFileError: if it is damaged, was not written by this library, or has another schema.
    """
    with reading(path, "learnt") as (content, tensors):
        plain = entries(Learnt, content, "the record of a learnt setting", {"gram", "streams"})
        streams = [tensors[_gram_name(k)] for k in range(1, len(tensors))]
        return Learnt(**plain, gram=tensors["gram"], streams=tuple(streams))
