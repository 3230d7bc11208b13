"""SGLang-Diffusion's plug-in, by its entry point ``sglang.multimodal_gen.plugins``; imported inside SGLang only."""
