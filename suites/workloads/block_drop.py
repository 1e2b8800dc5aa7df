"""A residual network whose blocks are dropped: gates decide, for each image, which of its blocks run.

ResNet-32 on images of CIFAR's shape, three stages of five blocks with 16, 32 and 64 channels, and its 15 gates, as in
BlockDrop (Wu et al., "BlockDrop: Dynamic inference paths in residual networks", CVPR 2018); batches of 1 and 16 as in
MagPy. A block runs if any image of the batch wants it, and counts for those that do. Batch norm sees the whole batch.

Knobs: `keep_rate`, how often an image wants a block (BlockDrop's policy learns to drop about half); `blocks` of a
stage, `channels` of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters, uniform_fan_in

Values = Mapping[str, Any]
Block = Callable[[Any], Any]
SIZE = {"keep_rate": 0.5, "blocks": 5, "channels": 16}
QUICK = {"blocks": 2}
STAGES = 3
CLASSES = 10


def _conv(rng: Rng, name: str, inputs: int, outputs: int) -> dict[str, Array]:
    """A convolution without bias, and the batch norm after it."""
    return {
        f"{name}.weight": uniform_fan_in(rng, (outputs, inputs, 3, 3), inputs * 9),
        f"{name}.scale": np.ones(outputs, np.float32),
        f"{name}.shift": np.zeros(outputs, np.float32),
    }


def init(size: Size, rng: Rng) -> Arrays:
    """`stem.*`, `blockN.first.*`, `blockN.second.*`, `out.*`."""
    inputs = size["channels"]
    parameters = _conv(rng, "stem", 3, inputs)
    for number in range(STAGES * size["blocks"]):
        outputs = size["channels"] << number // size["blocks"]
        parameters |= _conv(rng, f"block{number}.first", inputs, outputs)
        parameters |= _conv(rng, f"block{number}.second", outputs, outputs)
        inputs = outputs
    return parameters | dense_parameters(rng, "out", inputs, CLASSES)


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`image` (batch, 3, 32, 32), `label` (batch,), `gate` (blocks of all stages, batch), 0 or 1."""
    gate = rng.random((STAGES * size["blocks"], batch_size)) < size["keep_rate"]
    return {
        "image": rng.normal(size=(batch_size, 3, 32, 32)).astype(np.float32),
        "label": rng.integers(0, CLASSES, batch_size),
        "gate": gate.astype(np.float32),
    }


def conv(ops: Namespace, params: Values, name: str, x: Any, stride: int = 1) -> Any:
    """Convolution and batch norm."""
    x = ops.conv2d(x, params[f"{name}.weight"], stride=stride, padding=1)
    return ops.batch_norm(x, params[f"{name}.scale"], params[f"{name}.shift"])


def shortcut(ops: Namespace, x: Any, channels: int) -> Any:
    """x itself, or where a stage begins, half its size and twice its channels, the new ones zero."""
    if x.shape[1] == channels:
        return x
    return ops.pad(ops.avg_pool2d(x, kernel_size=2), widths=((0, 0), (0, channels - x.shape[1]), (0, 0), (0, 0)))


def block(ops: Namespace, params: Values, name: str, gate: Any, x: Any) -> Any:
    """A block that runs, for the images whose gate (batch,) is 1."""
    channels = params[f"{name}.first.scale"].shape[0]
    inner = ops.relu(conv(ops, params, f"{name}.first", x, channels // x.shape[1]))
    inner = conv(ops, params, f"{name}.second", inner)
    return ops.relu(shortcut(ops, x, channels) + inner * ops.reshape(gate, shape=(-1, 1, 1, 1)))


def dropped(ops: Namespace, params: Values, name: str, x: Any) -> Any:
    """A block that does not run."""
    return ops.relu(shortcut(ops, x, params[f"{name}.first.scale"].shape[0]))


def through(ops: Namespace, params: Values, batch: Values, choose: Callable[[int, Block, Block, Any], Any]) -> Any:
    """Mean cross-entropy after all blocks; `choose` lets a block run or drops it."""
    x = ops.relu(conv(ops, params, "stem", batch["image"]))
    for number in range(batch["gate"].shape[0]):
        run = partial(block, ops, params, f"block{number}", batch["gate"][number])
        x = choose(number, run, partial(dropped, ops, params, f"block{number}"), x)
    logits = ops.linear(ops.mean(x, dim=(2, 3)), params["out.weight"], params["out.bias"])
    return ops.cross_entropy(logits, batch["label"])


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's `if`, once for each block."""
    gates = batch["gate"].tolist()
    return through(ops, params, batch, lambda number, run, drop, x: run(x) if any(gates[number]) else drop(x))


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A branch in the graph for each block."""
    wanted = ops.max(batch["gate"], dim=1) > 0.0
    return through(ops, params, batch, lambda number, run, drop, x: ops.cond(wanted[number], run, drop, x))


def masked(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Every block runs, and its gates do the rest."""
    return through(ops, params, batch, lambda number, run, drop, x: run(x))


WORKLOAD = control_flow(
    "block_drop", init, batch, {"dynamic": dynamic, "static": static, "masked": masked}, SIZE, quick=QUICK
)
