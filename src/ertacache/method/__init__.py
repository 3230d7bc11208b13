"""The method: pure functions over tensors and lists, one module for each part of the paper and of what extends it."""
