"""The pipelines that are trained here, one file for each; `FAMILIES` names them."""

from training.families.base import Family, Sounding
from training.families.cogvideox import CogVideoX
from training.families.emoji import Emoji
from training.families.flux import Flux
from training.families.ltx2 import LTX2
from training.families.opensora import OpenSora
from training.families.wan import Wan

__all__ = ["FAMILIES", "Family", "Sounding"]

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Emoji(), Flux(), Wan(), CogVideoX(), OpenSora(), LTX2())
}
