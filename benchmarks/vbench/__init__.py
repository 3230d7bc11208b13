"""VBench (arXiv 2311.17982) of a pipeline with and without a policy: clips as it wants them, its run, its scores."""
