"""Changes pictures in ways that leave their emotion alone: mirrored, zoomed, a little brighter or darker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.recipe import TrainingConfig


def augment(pixels: Tensor, config: TrainingConfig, random: torch.Generator) -> Tensor:
    """B×3×S×S uint8 → the same in float, still 0 to 255, each picture changed by its own chance."""
    pictures = pixels.float()
    if config.flip or config.crop > 0:
        windows = _windows(len(pixels), config, random).to(pixels.device)
        grid = nn.functional.affine_grid(windows, list(pixels.shape), align_corners=False)
        pictures = nn.functional.grid_sample(
            pictures, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    if config.colour_jitter > 0:
        pictures = _jittered(pictures, config.colour_jitter, random)
    return pictures


def _windows(count: int, config: TrainingConfig, random: torch.Generator) -> Tensor:
    """B×2×3 affine maps from the output to a window inside the picture, mirrored or not."""
    uniform = torch.rand(count, 4, generator=random)
    side = 1 - config.crop * uniform[:, 0]
    centre = (2 * uniform[:, 1:3] - 1) * (1 - side).unsqueeze(1)  # in [−1, 1], so that no window leaves it
    mirror = torch.where(uniform[:, 3] < 0.5, -1.0, 1.0) if config.flip else torch.ones(count)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = side * mirror, side
    maps[:, :, 2] = centre
    return maps


def _jittered(pictures: Tensor, share: float, random: torch.Generator) -> Tensor:
    uniform = 2 * torch.rand(2, len(pictures), 1, 1, 1, generator=random) - 1
    brightness, contrast = (1 + share * uniform).to(pictures.device)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    jittered: Tensor = ((pictures - mean) * contrast + mean) * brightness
    return jittered.clamp(0, 255)
