"""`push` and `pretrained` as methods of the policy, where users of diffusers look for them."""

from __future__ import annotations

from typing import Any

from ertacache.sharing.hub import pretrained, push


def offer_on(policy_class: Any) -> None:
    """Give a class the methods ``push_to_hub`` and ``from_pretrained``; the policy's module cannot import this one.

    Args:
        policy_class: `ertacache.policy.Policy`; a type checker knows both methods from its own declarations.
    """
    policy_class.push_to_hub = push  # the policy, its first argument, is the object that it is called on
    policy_class.from_pretrained = staticmethod(pretrained)
