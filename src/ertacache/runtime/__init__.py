"""Where a policy meets a pipeline: the only part that touches the insides of diffusers and torch modules."""
