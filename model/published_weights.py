"""Weights that others trained and saved, made to fit a backbone: read from bytes, unwrapped, renamed, checked.

Knows bytes, names and tensors; not where they come from.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.errors import WeightsMismatch

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "backbone", "network", "teacher")
"""Under which keys checkpoints keep the weights; an average over the training comes before its last step."""
COUNTER = "num_batches_tracked"  # of a BatchNorm's training; nothing is computed with it
NAMED = 3  # names in a message


@dataclass(frozen=True)
class Fitted:
    """Tensors under a backbone's own names, and what was done to make them so."""

    state: dict[str, Tensor]
    adapted: str
    """One line; empty where they fitted as they were."""


def parse(data: bytes) -> Mapping[str, Any]:
    """A safetensors file's or a torch file's content; of the latter's pickle nothing is carried out.

    Raises:
        WeightsMismatch: it is neither, is damaged, or holds code.
    """
    try:
        if data[:2] in {b"PK", b"\x80\x02"}:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return loaded if isinstance(loaded, Mapping) else {}
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        why = str(error).partition("\n")[0]
        raise WeightsMismatch(
            f"expected a safetensors file, or one of torch.save that holds tensors alone, found {len(data)} bytes "
            f"that are neither ({why})"
        ) from error


def fit(content: Mapping[str, Any], own: Mapping[str, Tensor], heads: tuple[str, ...]) -> Fitted:
    """The content's tensors under the names of `own`, which may have a prefix in either; without classifiers.

    Raises:
        WeightsMismatch: a tensor is missing, is of another shape, is not finite, or is one that `own` does not have.
    """
    found, wrapper = _unwrapped(content)
    wrapping = {"", *_common_start(own)}  # what all our own names may begin with and the file's need not
    prefix, start = _prefixes(found, own, wrapping)
    short = {name.removeprefix(start): tensor for name, tensor in own.items()}
    state = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    strange = state.keys() - short.keys()
    beside = {name for name in found if not name.startswith(prefix)}  # a larger network's other parts
    counters = {name for name in short.keys() - state.keys() if name.endswith(COUNTER)}
    classifiers = tuple(wrap + head for wrap in wrapping for head in heads)
    unknown = {name for name in strange if not name.startswith(classifiers)}
    check_names(short, state | {name: short[name] for name in counters}, unknown)
    check_finite({name: state[name] for name in short if name in state})
    both = short.keys() & state.keys()
    dtypes = {str(state[n].dtype).removeprefix("torch.") for n in both if state[n].dtype != short[n].dtype}
    notes = [
        (wrapper, f"read from its {wrapper!r}"),
        (prefix, f"prefix {prefix!r} left out"),
        (strange, f"classifier left out ({_some(strange)})"),
        (beside, f"{len(beside)} other tensors left out ({_some(beside)})"),
        (counters, f"{len(counters)} BatchNorm counters left at 0"),
        (dtypes, f"converted from {', '.join(sorted(dtypes))}"),
    ]
    fitting = {start + name: state.get(name, tensor) for name, tensor in short.items()}
    return Fitted(fitting, "; ".join(note for done, note in notes if done))


def check_names(own: Mapping[str, Tensor], found: Mapping[str, Tensor], strange: Iterable[str]) -> None:
    """See that names and shapes are the network's own; `strange` are names that it does not have.

    Raises:
        WeightsMismatch: some are not; the message counts and names them.
    """
    shapes = [
        f"{name} (expected {tuple(tensor.shape)}, found {tuple(found[name].shape)})"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    differences: dict[str, Iterable[str]] = {
        "missing": own.keys() - found.keys(),
        "unexpected": strange,
        "of another shape": shapes,
    }
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, each in differences.items() if (names := list(each))]
    if problems:
        raise WeightsMismatch(f"expected {len(own)} tensors of this network, found " + "; ".join(problems))


def _unwrapped(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint, and the key that it keeps them under, if any."""
    keys = []
    while not any(isinstance(value, Tensor) for value in content.values()):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            raise WeightsMismatch(f"expected tensors by name, found {_some(map(str, content)) or 'nothing'}")
        content = content[key]
        keys.append(key)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}, ".".join(keys)


def _common_start(own: Mapping[str, Tensor]) -> set[str]:
    first = {name.partition(".")[0] + "." for name in own}
    return first if len(first) == 1 else set()


def _prefixes(found: Mapping[str, Tensor], own: Mapping[str, Tensor], wrapping: Iterable[str]) -> tuple[str, str]:
    """What stands before the backbone's names in the file, and in `own` where the file has it not."""
    candidates = {
        (theirs, ours) for ours in wrapping for name in own for theirs in _before(found, name.removeprefix(ours))
    }

    def fitting(candidate: tuple[str, str]) -> tuple[int, int]:
        theirs, ours = candidate
        return sum(theirs + name.removeprefix(ours) in found for name in own), -len(theirs)

    return max(sorted(candidates), key=fitting, default=("", ""))


def _before(found: Mapping[str, Tensor], name: str) -> set[str]:
    """What stands before this name where it ends a name in the file."""
    return {each.removesuffix(name) for each in found if each == name or each.endswith("." + name)}


def check_finite(state: Mapping[str, Tensor]) -> None:
    """See that no weight is NaN or infinite.

    Raises:
        WeightsMismatch: some are; the message counts the tensors and names them.
    """
    broken = [n for n, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise WeightsMismatch(f"expected finite weights, found others in {len(broken)} tensors: {_some(broken)}")


def _some(names: Iterable[str]) -> str:
    """The first few, in order."""
    listed = sorted(names)
    return ", ".join(listed[:NAMED]) + (", …" if len(listed) > NAMED else "")
