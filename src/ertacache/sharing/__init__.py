"""Policies on the Hugging Face Hub: each a repository with the policy, a model card, and the figures behind it."""

from ertacache.policy import Policy
from ertacache.sharing.hub import pretrained, push
from ertacache.sharing.policy_methods import offer_on

__all__ = ["pretrained", "push"]

offer_on(Policy)
