"""The method as pure functions over tensors and lists, one module for each part of the paper."""
