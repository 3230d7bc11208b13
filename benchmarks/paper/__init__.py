"""The paper's tables and figures (arXiv 2508.21091), measured again: ``python -m benchmarks.paper``."""
