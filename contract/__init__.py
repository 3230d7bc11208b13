"""The contract that every pipeline must keep, tried on tiny pipelines of all classes; writes docs/support.md."""
