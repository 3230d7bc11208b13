"""The contract of every pipeline, tried on tiny pipelines of all classes; writes docs/reference/support.md."""
