"""What works, shown: a tiny pipeline of every family, what each has to keep, and docs/support.md about it."""
