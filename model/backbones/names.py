"""The names of the backbones that a command line or a flow may ask for. No torch, so that listing them is quick.

What each name stands for is an entry of `model.backbones.registry`.
"""

from __future__ import annotations

from typing import Literal, get_args

BackboneName = Literal["efficientnet-lite0", "resnet18", "resnet50", "resnet101"]

NAMES: tuple[BackboneName, ...] = get_args(BackboneName)
DEFAULT: BackboneName = "resnet101"  # the paper's
SMALLEST: BackboneName = "resnet18"  # trains in minutes on two cores: demonstrations, first tries
