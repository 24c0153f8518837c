"""Everything that is true of a feature extractor, as one value; the rest of the code asks it and knows no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from model.preprocessing import Preprocessing


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody trained."""

    source: str
    """Their name where they are published."""
    fetch: Callable[[], Mapping[str, Tensor]]
    """Downloads them, or reads them from a cache or a package.

    Raises OSError, RuntimeError or ValueError where it can't."""


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
    """From torchvision's servers."""
    bundled: PublishedWeights | None = None
    """From a package that is installed: no download."""
    prefix: str = ""
    """What published weights put before the names of the extractor's own tensors."""
    classifier: str = "classifier."
    """How the names of the classifier's tensors begin in published weights; they are left out."""
    fold: Callable[[nn.Module], nn.Module] | None = None
    """Makes a copy in evaluation mode that computes the same with fewer layers. None: it scores as it is."""
    smallest_side: int = 32
    """Pixels of the smallest picture that has maps."""

    def stage_of(self, parameter: str) -> int:
        """The number of the stage, from 0 at the input, that holds the parameter of this name.

        Raises:
            ValueError: no stage names it.
        """
        for number, prefixes in enumerate(self.stages):
            if parameter.startswith(prefixes):
                return number
        raise ValueError(f"{self.name}: expected a stage for every parameter, found none for {parameter}")
