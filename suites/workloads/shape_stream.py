"""One layer of a Transformer encoder that classifies sequences, on a stream of batches that change in shape.

    shape_stream             batch sizes and lengths drawn evenly
    shape_stream_zipf        small ones often, large ones seldom
    shape_stream_sentences   lengths as those of sentences

Attention, feed-forward and normalisation as in Vaswani et al., "Attention is all you need", 2017, section 3, at a
sixteenth of its base sizes: width 32, feed-forward 128, with 4 heads; positions are learned. A vocabulary of 1000, 10
classes; tokens and labels are random, since only their shapes matter. The mean over positions is classified.

Knobs: `steps` in the stream, and how many `distinct` shapes there are among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from engines.engine import Varying
from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.shapes import COLUMNS, ROWS, shapes
from suites.workloads.workload import Arrays, Rng, Workload, dense_parameters

WIDTH, HEADS, HIDDEN, VOCABULARY, CLASSES = 32, 4, 128, 1000, 10

VARYING = (
    Varying("batch", (("tokens", 0), ("label", 0)), *ROWS),
    Varying("length", (("tokens", 1),), *COLUMNS),
)
"""What changes from batch to batch."""


def init(rng: Rng) -> Arrays:
    """Embeddings from N(0, 1 / width), the rest as torch's layers start."""
    scale = 1.0 / math.sqrt(WIDTH)
    normal = {
        "token.weight": rng.normal(scale=scale, size=(VOCABULARY, WIDTH)),
        "position.weight": rng.normal(scale=scale, size=(COLUMNS[1], WIDTH)),
    }
    norms = {f"norm{n}.{part}": np.full(WIDTH, value) for n in (1, 2) for part, value in (("weight", 1), ("bias", 0))}
    return {
        **{name: value.astype(np.float32) for name, value in (normal | norms).items()},
        **dense_parameters(rng, "qkv", WIDTH, 3 * WIDTH),
        **dense_parameters(rng, "out", WIDTH, WIDTH),
        **dense_parameters(rng, "up", WIDTH, HIDDEN),
        **dense_parameters(rng, "down", HIDDEN, WIDTH),
        **dense_parameters(rng, "head", WIDTH, CLASSES),
    }


def loss(ops: Namespace, params: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    """Mean cross-entropy of `tokens` (batch, length) against `label` (batch,), both int64, padding left out."""
    del key
    rows, columns = (batch.get(varying.mask) for varying in VARYING)
    tokens = batch["tokens"]
    x = ops.embedding(params["token.weight"], tokens) + params["position.weight"][: tokens.shape[1]]
    x = _normalised(ops, params, "norm1", x + _attention(ops, params, x, columns))
    x = _normalised(ops, params, "norm2", x + _linear(ops, params, "down", ops.relu(_linear(ops, params, "up", x))))
    logits = _linear(ops, params, "head", _mean(ops, x, columns))
    if rows is None:
        return ops.cross_entropy(logits, batch["label"])
    chosen = ops.gather(ops.log_softmax(logits, dim=1), ops.reshape(batch["label"], shape=(-1, 1)), dim=1)
    counted = ops.where(ops.reshape(rows, shape=(-1, 1)), chosen, 0.0)
    return -ops.sum(counted) / _count(ops, rows, logits)


def _linear(ops: Namespace, params: Mapping[str, Any], name: str, x: Any) -> Any:
    return ops.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def _normalised(ops: Namespace, params: Mapping[str, Any], name: str, x: Any) -> Any:
    return ops.layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], normalized_shape=(WIDTH,))


def _attention(ops: Namespace, params: Mapping[str, Any], x: Any, columns: Any) -> Any:
    """Every position of a sequence attends to every other one that is no padding."""
    count, length, _ = x.shape
    heads = ops.reshape(_linear(ops, params, "qkv", x), shape=(count, length, 3 * HEADS, WIDTH // HEADS))
    q, k, v = ops.split(ops.permute(heads, dims=(0, 2, 1, 3)), sizes=(HEADS, HEADS, HEADS), dim=1)
    scores = ops.matmul(q, ops.transpose(k, dim0=2, dim1=3)) * (1.0 / math.sqrt(WIDTH // HEADS))
    if columns is not None:
        scores = ops.where(ops.reshape(columns, shape=(1, 1, 1, -1)), scores, -math.inf)
    mixed = ops.permute(ops.matmul(ops.softmax(scores, dim=3), v), dims=(0, 2, 1, 3))
    return _linear(ops, params, "out", ops.reshape(mixed, shape=(count, length, WIDTH)))


def _mean(ops: Namespace, x: Any, columns: Any) -> Any:
    """The mean over the positions that are no padding: from (batch, length, width) to (batch, width)."""
    if columns is None:
        return ops.mean(x, dim=1)
    return ops.sum(ops.where(ops.reshape(columns, shape=(1, -1, 1)), x, 0.0), dim=1) / _count(ops, columns, x)


def _count(ops: Namespace, mask: Any, like: Any) -> Any:
    """How many are no padding, in the dtype of `like`."""
    return ops.sum(ops.cast(mask, dtype=str(like.dtype).removeprefix("torch.")))


def work(rows: int, columns: int) -> float:
    """Multiplications of the layer's matrix products: of positions with weights, and with each other."""
    return rows * columns * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN + 2 * WIDTH * columns)


def _workload(name: str, law: str, size: Mapping[str, int]) -> Workload:
    def stream(rng: Rng) -> Iterator[Arrays]:
        for rows, columns in shapes(law, rng, **size, work=work):
            yield {
                "tokens": rng.integers(VOCABULARY, size=(rows, columns)),
                "label": rng.integers(CLASSES, size=rows),
            }

    return Workload(
        name,
        init,
        lambda rng, _: next(stream(rng)),
        loss,
        Sgd(lr=0.01),
        size=size,
        resize=lambda sized: _workload(name, law, sized),
        varying=VARYING,
        stream=stream,
    )


DEFAULT_SIZE = {"steps": 500, "distinct": 500}

WORKLOADS = tuple(
    _workload(name, law, DEFAULT_SIZE)
    for name, law in (
        ("shape_stream", "uniform"),
        ("shape_stream_zipf", "zipf"),
        ("shape_stream_sentences", "sentences"),
    )
)
