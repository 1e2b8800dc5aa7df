"""A mixture of experts: each token goes to the two of eight experts that its router likes best.

Top-2 routing with noise (Shazeer et al., "Outrageously large neural networks: the sparsely-gated mixture-of-experts
layer", 2017), no token dropped; width 256, 512 to 4096 tokens. An expert is two dense layers with relu between.

Knobs: `skew`, 0 (every expert is as popular) to 1 (all tokens want the same two); `experts`, `width`, `inner`. So that
skew can be set while weights are trained, it lies in the noise: log popularity plus Gumbel noise, which draws two
experts without replacement. Tokens are the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import count_up, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, uniform_fan_in

Values = Mapping[str, Any]
SIZE = {"skew": 0.5, "experts": 8, "width": 256, "inner": 512}
QUICK = {"width": 64, "inner": 128}
CHOSEN = 2
BLOCK = 32
RARE = 1e-9


def init(size: Size, rng: Rng) -> Arrays:
    """`router` (experts, width), `up` (experts, width, inner), `down` (experts, inner, width)."""
    experts, width, inner = size["experts"], size["width"], size["inner"]
    return {
        "router": 0.1 * uniform_fan_in(rng, (experts, width), width),
        "up": uniform_fan_in(rng, (experts, width, inner), width),
        "down": uniform_fan_in(rng, (experts, inner, width), inner),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`x` and `target` (tokens, width), `noise` (tokens, experts)."""
    experts, shape = size["experts"], (batch_size, size["width"])
    popularity = (1.0 - size["skew"]) / experts + size["skew"] * (np.arange(experts) < CHOSEN) / CHOSEN
    noise = np.log(popularity + RARE) + rng.gumbel(size=(batch_size, experts))
    return {
        "x": rng.normal(size=shape).astype(np.float32),
        "target": rng.normal(size=shape).astype(np.float32),
        "noise": noise.astype(np.float32),
    }


def route(ops: Namespace, params: Values, batch: Values) -> tuple[Any, Any]:
    """Each token's experts and their weights, (tokens, 2) both."""
    likes, expert = ops.topk(ops.linear(batch["x"], params["router"]) + batch["noise"], k=CHOSEN, dim=1)
    return expert, ops.softmax(likes, dim=1)


def consult(ops: Namespace, x: Any, up: Any, down: Any) -> Any:
    """What an expert says of rows, or experts of a row of blocks."""
    return ops.matmul(ops.relu(ops.matmul(x, up)), down)


def combined(ops: Namespace, said: Any, place: Any, weight: Any, batch: Values) -> Any:
    """Mean squared error of the weighted sum of what stands at `place` (tokens * 2,) in `said` (rows, width)."""
    tokens, width = batch["x"].shape
    both = ops.reshape(ops.embedding(said, place), shape=(tokens, CHOSEN, width))
    return error(ops, ops.sum(both * ops.reshape(weight, shape=(tokens, CHOSEN, 1)), dim=1), batch)


def error(ops: Namespace, y: Any, batch: Values) -> Any:
    """Mean squared error."""
    difference = y - batch["target"]
    return ops.mean(difference * difference)


def by_expert(ops: Namespace, expert: Any, experts: int) -> tuple[Any, Any, Any]:
    """All choices sorted by expert, which expert each is of, and how many there are of each expert."""
    flat = ops.reshape(expert, shape=(-1,))
    order = ops.argsort(flat, dim=0)
    counts = ops.sum(ops.one_hot(flat, num_classes=experts, dtype="int64"), dim=0)
    return order, ops.gather(flat, order, dim=0), counts


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop over experts, each given just its tokens; who has none is not asked."""
    expert, weight = route(ops, params, batch)
    order, _, counts = by_expert(ops, expert, params["up"].shape[0])
    token = ops.floor_divide(order, CHOSEN)
    said, start = [], 0
    for index, count in enumerate(counts.tolist()):
        if count:
            x = ops.embedding(batch["x"], token[start : start + count])
            said.append(consult(ops, x, params["up"][index], params["down"][index]))
            start += count
    return combined(ops, ops.concat(said), ops.argsort(order, dim=0), weight, batch)


def padded(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Every expert is asked about every token, most answers are weighted with 0."""
    expert, weight = route(ops, params, batch)
    spread = ops.scatter_add(zeros(ops, weight, *batch["noise"].shape), expert, weight, dim=1)
    said = consult(ops, batch["x"], params["up"], params["down"])
    share = ops.reshape(ops.transpose(spread, dim0=0, dim1=1), shape=(*said.shape[:2], 1))
    return error(ops, ops.sum(said * share, dim=0), batch)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Tokens grouped by expert, groups rounded up to blocks of one expert each, whose number has a bound.

    As in MegaBlocks (Gale et al., 2022). What an empty place computes is never picked up.
    """
    up, down = params["up"], params["down"]
    (experts, width, inner), choices = up.shape, CHOSEN * batch["x"].shape[0]
    blocks = -(-choices // BLOCK) + experts
    expert, weight = route(ops, params, batch)
    order, owner, counts = by_expert(ops, expert, experts)
    rounded = ops.floor_divide(counts + (BLOCK - 1), BLOCK) * BLOCK
    ends = ops.cumsum(rounded, dim=0)
    shift = (ends - rounded) - (ops.cumsum(counts, dim=0) - counts)
    place = count_up(ops, order, choices) + ops.gather(shift, owner, dim=0)
    token = ops.scatter_add(zeros(ops, order, blocks * BLOCK), place, ops.floor_divide(order, CHOSEN), dim=0)
    first = ops.reshape(count_up(ops, order, blocks) * BLOCK, shape=(blocks, 1))
    whose = ops.sum(ops.cast(ends <= first, dtype="int64"), dim=1)
    whose = ops.where(whose < experts, whose, experts - 1)
    x = ops.reshape(ops.embedding(batch["x"], token), shape=(blocks, BLOCK, width))
    ups = ops.embedding(ops.reshape(up, shape=(experts, width * inner)), whose)
    downs = ops.embedding(ops.reshape(down, shape=(experts, inner * width)), whose)
    said = consult(
        ops, x, ops.reshape(ups, shape=(blocks, width, inner)), ops.reshape(downs, shape=(blocks, inner, width))
    )
    where = ops.gather(place, ops.argsort(order, dim=0), dim=0)
    return combined(ops, ops.reshape(said, shape=(blocks * BLOCK, width)), where, weight, batch)


WORKLOAD = control_flow("moe", init, batch, {"dynamic": dynamic, "static": static, "padded": padded}, SIZE, quick=QUICK)
