"""The schedule search against other ways to choose which steps are computed."""
