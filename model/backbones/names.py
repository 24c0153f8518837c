"""The names of the backbones that a command line or a flow may ask for. No torch, so that listing them is quick.

`NAMES` are entries of `model.backbones.registry`. `torchvision/NAME` and `timm/NAME` are that package's models; it is
imported once a name asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NAMES = ("efficientnet-lite0", "resnet18", "resnet50", "resnet101")
DEFAULT = "efficientnet-lite0"  # its ImageNet weights come with the installation
SMALLEST = "resnet18"  # trains from random weights in minutes on two cores: first tries
BUNDLED = frozenset({"efficientnet-lite0"})  # weights that need no download
TORCHVISION, TIMM = "torchvision/", "timm/"


def check_backbone(name: str) -> str:
    """The name, where there is such a backbone.

    Raises:
        ValueError: there is none; the message names near ones.
    """
    if name.startswith(TORCHVISION):
        from model.backbones.from_torchvision import names

        known: Iterable[str] = names()
    elif name.startswith(TIMM):
        from model.backbones.from_timm import check_name

        return check_name(name)
    else:
        known = NAMES
    if name not in known:
        raise ValueError(unknown_backbone(name, known))
    return name


def unknown_backbone(name: str, known: Iterable[str]) -> str:
    """What to say of a name that no backbone has."""
    listed = list(known)
    near = get_close_matches(name, listed, n=3, cutoff=0.5)
    if not name.startswith((TORCHVISION, TIMM)):
        near = near or [*NAMES, f"{TORCHVISION}NAME", f"{TIMM}NAME"]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"no backbone is named {name!r}: {hint}`vitrine backbones` lists them"
