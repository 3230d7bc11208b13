"""Why there is no case of some pipeline classes."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "KandinskyCombinedPipeline": "calls KandinskyPriorPipeline and KandinskyPipeline: accelerate these",
    "KandinskyImg2ImgCombinedPipeline": "calls KandinskyPriorPipeline and KandinskyImg2ImgPipeline: accelerate these",
    "KandinskyInpaintCombinedPipeline": "calls KandinskyPriorPipeline and KandinskyInpaintPipeline: accelerate these",
    "KandinskyV22CombinedPipeline": "calls KandinskyV22PriorPipeline and KandinskyV22Pipeline: accelerate these",
    "KandinskyV22Img2ImgCombinedPipeline": (
        "calls KandinskyV22PriorPipeline and KandinskyV22Img2ImgPipeline: accelerate these"
    ),
    "KandinskyV22InpaintCombinedPipeline": (
        "calls KandinskyV22PriorPipeline and KandinskyV22InpaintPipeline: accelerate these"
    ),
    "StableCascadeCombinedPipeline": (
        "calls StableCascadePriorPipeline and StableCascadeDecoderPipeline: accelerate these"
    ),
    "WuerstchenCombinedPipeline": "calls WuerstchenPriorPipeline and WuerstchenDecoderPipeline: accelerate these",
    "VersatileDiffusionPipeline": (
        "cannot be called: its methods make VersatileDiffusionTextToImagePipeline and others; accelerate these"
    ),
    "FluxPriorReduxPipeline": "encodes a picture once, without steps",
    "LTXLatentUpsamplePipeline": "makes latents larger in one model call, without steps",
    "LTX2LatentUpsamplePipeline": "makes latents larger in one model call, without steps",
    "LTX2VideoDiffusionDecodePipeline": "its decoder samples by itself, without a scheduler",
    "LLaDA2Pipeline": "samples tokens, which cannot be extrapolated",
    "DiffusionGemmaPipeline": "samples tokens, which cannot be extrapolated",
    "RFD4ProteinaPipeline": "samples proteins, with two schedulers and a number of steps that the model sets",
    "EasyAnimateControlPipeline": (
        "fails in diffusers 0.42: it gives its encode_prompt() the argument text_encoder_index, which is not taken"
    ),
    "VersatileDiffusionDualGuidedPipeline": (
        "fails in diffusers 0.42: its U-Net gives attention the argument encoder_attention_mask, which is not taken"
    ),
    "Cosmos3DistilledModularPipeline": "needs a tokenizer and prompts; Cosmos3OmniPipeline of the same model works",
    "Cosmos3OmniModularPipeline": "needs a tokenizer and prompts; Cosmos3OmniPipeline of the same model works",
    "EchoModularPipeline": "its loop has no scheduler: it makes its Euler steps itself",
    "HeliosPyramidModularPipeline": "samples in stages of other sizes; HeliosPyramidPipeline works by hand",
    "HeliosPyramidDistilledModularPipeline": "samples in stages of other sizes; HeliosPyramidPipeline works by hand",
    "MiniMaxMusic3ModularPipeline": "begins with a language model that writes the music's tokens",
    "QwenImageEditPlusModularPipeline": "reads several pictures with its text encoder; QwenImageEditPlusPipeline works",
    "QwenImageLayeredModularPipeline": "reads its picture with its text encoder; QwenImageLayeredPipeline works",
    "Wan22VaceModularPipeline": "encodes a control clip first; WanVACEPipeline works",
    "WanAnimate2ModularPipeline": "encodes a driving clip first; WanAnimatePipeline works",
    "WanAnimate2DistilledModularPipeline": "encodes a driving clip first; WanAnimatePipeline works",
    "WanImage2VideoModularPipeline": "encodes a picture first; WanImageToVideoPipeline works",
}
"""Class name to the reason, for users."""
