"""A test bed without a network: the ideal denoiser of a small set of real pictures, in closed form."""
