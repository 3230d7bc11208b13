"""Policies on the Hugging Face Hub: each a repository with the policy, a model card, and the figures behind it."""

from ertacache.policy import Policy
from ertacache.sharing.hub import fetched, pretrained, push
from ertacache.sharing.on_policy import offer_on

__all__ = ["fetched", "pretrained", "push"]

offer_on(Policy)
