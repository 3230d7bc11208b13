"""Stands in for the CUDA packages that SGLang imports and that its stages, run on a CPU, do not use.

Importing this module installs the stand-ins; it must come after torch, diffusers and transformers, which look for some
of these packages to see what is there.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import diffusers  # noqa: F401
import transformers  # noqa: F401

PACKAGES = [
    *("triton", "torchvision", "torchaudio", "torchcodec", "torch_memory_saver", "sgl_kernel", "flashinfer", "cuda"),
    *("deep_gemm", "flash_attn", "tvm_ffi", "tilelang", "cutlass", "quack", "kernels", "humming", "numba", "timm"),
    *("xgrammar", "llguidance", "outlines", "mistral_common", "openai_harmony", "anthropic", "blobfile"),
    *("decord", "moviepy", "cv2", "skimage", "trimesh", "xatlas", "soundfile", "modelopt", "runai_model_streamer"),
]


class _Anything:
    """Can be called, subscripted, decorated with, inherited from."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else _Anything()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __getitem__(self, key):
        return _Anything()

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases):
        return (object,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        from pydantic_core import core_schema

        return core_schema.any_schema()


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {}) if name[0].isupper() else _Anything()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in PACKAGES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = _Module(spec.name)
        module.__path__ = []
        module.__version__ = "99.0"
        return module

    def exec_module(self, module):
        pass


PACKAGES = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
sys.meta_path.append(_Finder())
