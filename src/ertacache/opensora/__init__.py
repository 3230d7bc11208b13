"""Open-Sora 1.2 in the form of diffusers: its models, sampler and pipeline, and a converter for its checkpoints."""

from ertacache.opensora.autoencoder import AutoencoderOpenSora
from ertacache.opensora.convert import convert_autoencoder, convert_transformer
from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.loading import load_opensora
from ertacache.opensora.pipeline import OpenSoraPipeline, OpenSoraPipelineOutput
from ertacache.opensora.scheduler import OpenSoraRectifiedFlowScheduler
from ertacache.opensora.transformer import STDiT3Transformer3DModel

__all__ = [
    "AutoencoderOpenSora",
    "OpenSoraError",
    "OpenSoraPipeline",
    "OpenSoraPipelineOutput",
    "OpenSoraRectifiedFlowScheduler",
    "STDiT3Transformer3DModel",
    "convert_autoencoder",
    "convert_transformer",
    "load_opensora",
]
