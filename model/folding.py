"""A trained backbone made ready to answer only: BatchNorms folded into convolutions, and a smaller float.

Equal to the trained network but for rounding; tests/test_folding.py holds the tolerances.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorms(backbone: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions do the work of the BatchNorms that follow them.

    For networks that register a convolution and its BatchNorm side by side, in the order in which they run. Of any
    other network the copy gives other answers, which `Predictor` notices.
    """
    folded = copy.deepcopy(backbone).eval()
    for parent in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            # Subclasses, such as timm's BatchNormAct2d, do more than BatchNorm does: they stay as they are.
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded


class Computed(nn.Module):
    """A backbone that computes in another float and answers in float32.

    The branches and their fusion stay in float32: they are a fiftieth of the work, and the polarity is their
    small difference.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone.to(dtype)
        self.dtype = dtype

    def forward(self, pictures: Tensor) -> Tensor:
        """B×3×H×W float32 → B×C×h×w float32."""
        features: Tensor = self.backbone(pictures.to(self.dtype))
        return features.float()
