"""Engines other than diffusers' pipelines: `sampling_line` is the seam, each package the skin for one engine."""
