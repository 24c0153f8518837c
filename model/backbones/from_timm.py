"""timm's models as feature extractors: whatever `forward_features` gives, as maps. timm is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, get_args

from torch import Tensor, nn

from model.backbones.names import TIMM, unknown_backbone
from model.backbones.shapes import maps_without_memory, without_memory
from model.backbones.spec import BackboneSpec, PublishedWeights
from model.backbones.stages import stages_of
from model.preprocessing import Interpolation, Preprocessing

STEPS = (1, 2, 4, 7, 8, 14, 16, 28, 32)  # pixels: what sides may have to be multiples of
SIDES = (32, 48, 64, 75, 96, 128, 160, 192)  # pixels: which may be too few


def library() -> Any:
    """The package timm.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm is not installed: pip install 'vitrine[timm]'") from error
    return timm


def check_name(name: str) -> str:
    """The name `timm/MODEL` or `timm/MODEL.WEIGHTS`, where timm has it.

    Raises:
        ValueError: timm is not installed or has none of this name; the message names near ones.
    """
    timm = library()
    known = {TIMM + model for model in timm.list_models()} | {TIMM + model for model in names()}
    if name not in known:
        raise ValueError(unknown_backbone(name, sorted(known)))
    return name


def names(pattern: str = "") -> list[str]:
    """Models with published weights, as `MODEL.WEIGHTS`, that fit a shell pattern. Raises ValueError without timm."""
    found: list[str] = library().list_models(pattern, pretrained=True)
    return found


@cache
def timm_backbone(name: str) -> BackboneSpec:
    """The entry of `timm/MODEL` or `timm/MODEL.WEIGHTS`.

    Raises:
        ValueError: the model's features are no maps, or its pictures have not three channels.
    """
    model = check_name(name).removeprefix(TIMM)
    preprocessing = preprocessing_of(model)
    side = preprocessing.image_size
    options, whole = _flexible(model)
    unused = _unused(whole, side)
    extractor = FeatureMaps(whole, unused).eval()
    maps = maps_without_memory(extractor, side)
    flexible = "dynamic_img_size" in options or not _config(model).fixed_input_size
    smallest, divisor = _sides(extractor, side) if flexible else (side, 1)
    return BackboneSpec(
        name=name,
        build=lambda: FeatureMaps(_create(model, options), unused),
        channels=maps.shape[1],
        stages=stages_of(extractor),
        preprocessing=preprocessing,
        imagenet=published_weights(model, options),
        smallest_side=smallest,
        largest_side=None if flexible else side,
        divisor=divisor,
    )


def input_size(model: str) -> tuple[int, int, int]:
    """Channels, height and width of the pictures that its weights were trained with."""
    size: tuple[int, int, int] = _config(model).input_size
    return size


def preprocessing_of(model: str) -> Preprocessing:
    """What its weights were trained with. Raises ValueError where pictures are not of three channels."""
    config = _config(model)
    channels, height, width = input_size(model)
    if channels != 3:
        raise ValueError(f"timm/{model}: expected pictures of 3 channels, found {channels}")
    known = config.interpolation in get_args(Interpolation)
    interpolation: Interpolation = config.interpolation if known else "bicubic"
    return Preprocessing(max(height, width), tuple(config.mean), tuple(config.std), interpolation)


def published_weights(model: str, options: Mapping[str, Any] | None = None) -> PublishedWeights | None:
    """The model's own, from Hugging Face's cache or its hub, as timm makes them fit; None where there are none."""
    config = _config(model)
    if not config.has_weights:
        return None

    def fetch() -> Mapping[str, Tensor]:
        from huggingface_hub.utils.logging import set_verbosity_error

        set_verbosity_error()  # type: ignore[no-untyped-call] # it would say each of a dozen attempts twice; the error that is raised says it once
        try:
            state: dict[str, Tensor] = _create(model, dict(options or {}), pretrained=True).state_dict()
        except Exception as error:  # the hub's client has errors of its own
            raise OSError(str(error)) from error
        return state

    return PublishedWeights(config.hf_hub_id or config.url or model, fetch, partial(_is_cached, config))


def _is_cached(config: Any) -> bool:
    if not config.hf_hub_id:
        return False
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files)


def _config(model: str) -> Any:
    return library().get_pretrained_cfg(model)


def _create(model: str, options: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    whole: nn.Module = library().create_model(model, pretrained=pretrained, num_classes=0, **options)
    return whole


def _flexible(model: str) -> tuple[dict[str, Any], nn.Module]:
    """The options with which it takes pictures of most sizes, and is without pooling; as many as it knows."""
    any_size, no_pooling = {"dynamic_img_size": True}, {"global_pool": ""}
    tried: tuple[dict[str, Any], ...] = (any_size | no_pooling, any_size, no_pooling)
    for options in tried:
        try:
            return options, without_memory(partial(_create, model, options))
        except (TypeError, AssertionError):
            continue
    return {}, without_memory(partial(_create, model, {}))


def _sides(extractor: nn.Module, native: int) -> tuple[int, int]:
    """The smallest side of pictures that it has maps of, and what sides must be multiples of; both found by trying."""

    def has_maps(side: int) -> bool:
        try:
            maps_without_memory(extractor, side)
        except Exception:  # whatever a network raises of a size that it can't take
            return False
        return True

    divisor = next((step for step in STEPS if native % step == 0 and has_maps(native + step)), native)
    tried = (-(-side // divisor) * divisor for side in SIDES)
    return next((side for side in tried if side < native and has_maps(side)), native), divisor


def _unused(whole: nn.Module, side: int) -> tuple[str, ...]:
    """The names of the children that have no part in the features: a head's normalisation, an attention's pooling."""
    ran: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: ran.add(module)) for module in whole.modules()]
    maps_without_memory(whole.forward_features, side)  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()
    return tuple(
        name
        for name, child in whole.named_children()
        if list(child.parameters()) and not ran.intersection(child.modules())
    )


def _grid(tokens: int, pictures: Tensor) -> tuple[int, int] | None:
    """The rows and columns of so many tokens of pictures of this shape, if they are a grid."""
    height, width = pictures.shape[-2:]
    rows = round((tokens * height / width) ** 0.5)
    columns = round(rows * width / height)
    return (rows, columns) if 0 < rows * columns == tokens else None


class FeatureMaps(nn.Module):
    """A timm model whose features are B×C×h×w, whether it makes maps, maps with channels last, or tokens."""

    def __init__(self, network: nn.Module, unused: tuple[str, ...]) -> None:
        super().__init__()
        for name in unused:
            setattr(network, name, nn.Identity())
        self.network = network
        # Some models with a class token do not say so.
        said: Any = getattr(network, "num_prefix_tokens", None)
        self.prefix_tokens = (0, 1) if said is None else (int(said),)
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pictures: Tensor) -> Tensor:
        """B×3×H×W → B×C×h×w.

        Raises:
            ValueError: the features are neither maps nor a grid of tokens.
        """
        features: Tensor = self.network.forward_features(pictures)  # type: ignore[operator]
        if isinstance(features, Tensor) and features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self.channels_last else features
        if isinstance(features, Tensor) and features.ndim == 3:
            for extra in self.prefix_tokens:
                if (grid := _grid(features.shape[1] - extra, pictures)) is not None:
                    return features[:, extra:].transpose(1, 2).reshape(len(features), -1, *grid)
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"expected maps or a grid of tokens, found {found}: take another backbone")
