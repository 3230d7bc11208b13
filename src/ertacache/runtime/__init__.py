"""Follow a policy in a pipeline's calls: the only part that touches the insides of diffusers and torch modules."""
