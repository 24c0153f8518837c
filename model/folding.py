"""BatchNorms of a trained network folded into the convolutions before them: the same answers but for rounding."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
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
