"""Everything that is true of a feature extractor, as one value; the rest of the code asks it and knows no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from model.errors import UnfitPicture
from model.folding import fold_batchnorms
from model.preprocessing import Preprocessing

HEADS = (
    "classifier.", "fc.", "_fc.", "head.", "heads.", "head_dist.", "fc_norm.", "attn_pool.", "last_linear.",
    "aux1.", "aux2.", "AuxLogits.",
)  # fmt: skip
"""How the names of classifiers' tensors begin in published weights."""


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody trained."""

    source: str
    """Their name where they are published."""
    fetch: Callable[[], Mapping[str, Tensor]]
    """Downloads them, or reads them from a cache or a package.

    Raises OSError, RuntimeError or ValueError where it can't."""
    at_hand: Callable[[], bool] = lambda: False
    """Whether fetching needs no download."""


@dataclass(frozen=True)
class BackboneSpec:
    """A feature extractor: how it is built, trained, made ready to score, and fed."""

    name: str
    build: Callable[[], nn.Module]
    """With random weights, drawn from torch's global generator: B×3×H×W → B×channels×h×w."""
    channels: int
    stages: tuple[tuple[str, ...], ...]
    """From the input to the output, how the names of each stage's parameters begin: `layer_decay` lowers the
    learning rate from stage to stage."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What its published weights were trained with."""
    imagenet: PublishedWeights | None = None
    """Published under the backbone's name, by torchvision or timm; some saw more or other pictures than ImageNet's."""
    bundled: PublishedWeights | None = None
    """From a package that is installed: no download."""
    smallest_side: int = 32
    """Pixels of the smallest picture that has maps."""
    largest_side: int | None = None
    divisor: int = 1
    """What the sides of a picture must be multiples of: a patch's side, in pixels."""

    def stage_of(self, parameter: str) -> int:
        """The number of the stage, from 0 at the input, that holds the parameter of this name.

        Raises:
            ValueError: no stage names it.
        """
        for number, prefixes in enumerate(self.stages):
            if parameter.startswith(prefixes):
                return number
        raise ValueError(f"{self.name}: expected a stage for every parameter, found none for {parameter}")

    def check_sides(self, height: int, width: int) -> None:
        """See that a picture of so many pixels has maps.

        Raises:
            UnfitPicture: it has none; the message names the nearest size that has.
        """
        fitting = [self.fitting_side(side) for side in (height, width)]
        if fitting != [height, width]:
            raise UnfitPicture(f"{self.name}: expected {self._sides()}, found {height}×{width}: take {max(fitting)}")

    def fitting_side(self, side: int) -> int:
        """The side nearest to this one that a picture may have, in pixels."""
        least = -(-self.smallest_side // self.divisor) * self.divisor
        nearest = max(least, round(side / self.divisor) * self.divisor)
        return nearest if self.largest_side is None else min(nearest, self.largest_side)

    def _sides(self) -> str:
        least = self.smallest_side
        if least == self.largest_side:
            return f"{least}×{least} pixels"
        multiples = f" and multiples of {self.divisor}" if self.divisor > 1 else ""
        return f"at least {least}×{least} pixels{multiples}"

    def fold(self, backbone: nn.Module) -> nn.Module:
        """A copy of what `build` made, in evaluation mode, that computes the same with fewer layers."""
        return fold_batchnorms(backbone, self.fitting_side(64))
