"""Policies learnt from ordinary generations: the first of a setting is returned in full, later ones are accelerated."""

from ertacache.learning.learner import Learner

__all__ = ["Learner"]
