"""A batch made to fit a policy: its sizes read, its entries padded, its masks added.

fitted = fit(Pad(), (Varying("length", (("tokens", 1),), most=64),), {"tokens": tokens})
fitted.batch["tokens"].shape          # (8, 64)
fitted.batch["length.mask"]           # True for what was there, False for padding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from engines.engine import Varying
from engines.graph.shapes.policy import Policy
from engines.value import EngineError, user_location


class Fitted(NamedTuple):
    """A batch as an executable takes it, its sizes by name, and the elements that were there and that were added."""

    batch: Mapping[str, torch.Tensor]
    sizes: Mapping[str, int]
    useful_elements: int
    padded_elements: int


def fit(policy: Policy, varying: Sequence[Varying], batch: Mapping[str, torch.Tensor]) -> Fitted:
    """Round the sizes up as the policy says. Raises EngineError for sizes that contradict each other or go too far."""
    fitting: dict[tuple[str, int], int] = {}
    sizes: dict[str, int] = {}
    masks: dict[str, torch.Tensor] = {}
    for each in varying:
        size = size_of(each, batch)
        sizes[each.name] = wanted = policy.fitting(each, size)
        fitting |= dict.fromkeys(each.places, wanted)
        if policy.masks:
            masks[each.mask] = _mask(size, wanted, batch[each.places[0][0]].device)
    entries = dict.fromkeys(name for name, _ in fitting)
    padded = {name: _padded(batch[name], name, fitting) for name in entries} if policy.masks else {}
    useful = sum(batch[name].numel() for name in entries)
    added = sum(value.numel() for value in padded.values()) - useful if padded else 0
    return Fitted({**batch, **padded, **masks}, sizes, useful, added)


def size_of(varying: Varying, batch: Mapping[str, torch.Tensor]) -> int:
    """The size that all its places have in common. Raises EngineError."""
    found = {}
    for name, dimension in varying.places:
        if name not in batch or batch[name].ndim <= dimension:
            given = f"{name!r} of shape {tuple(batch[name].shape)}" if name in batch else f"entries {sorted(batch)}"
            raise EngineError(
                f"{varying.name}: should be dimension {dimension} of {name!r}, found {given}, at {user_location()}"
            )
        found[f"dimension {dimension} of {name!r}"] = int(batch[name].shape[dimension])
    if len(set(found.values())) != 1:
        listed = ", ".join(f"{size} as {place}" for place, size in found.items())
        raise EngineError(f"{varying.name}: its places must have one size, found {listed}, at {user_location()}")
    return next(iter(found.values()))


def _padded(value: torch.Tensor, name: str, fitting: Mapping[tuple[str, int], int]) -> torch.Tensor:
    """An entry with zeros behind it, as far as its sizes were rounded up."""
    shape = tuple(fitting.get((name, dimension), size) for dimension, size in enumerate(value.shape))
    if shape == value.shape:
        return value
    out = value.new_zeros(shape)
    out[tuple(map(slice, value.shape))] = value
    return out


def _mask(size: int, wanted: int, device: torch.device) -> torch.Tensor:
    mask = torch.zeros(wanted, dtype=torch.bool, device=device)
    mask[:size] = True
    return mask
