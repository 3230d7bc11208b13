"""Policies on the Hugging Face Hub, each a repository of its own: the policy, and a card that says what it costs."""

from ertacache.sharing.card import card
from ertacache.sharing.hub import fetched, push

__all__ = ["card", "fetched", "push"]
