"""An LSTM language model: embedding, LSTM, softmax over the vocabulary; sentences of different length.

Embedding 128, hidden 256, batches of 1, 4, 16 and 64 sentences sorted by length, as in dynet-benchmark (Neubig et al.,
"DyNet: The dynamic neural network toolkit", 2017). The vocabulary has the usual 10,000 words of the Penn Treebank;
words are drawn by Zipf's law.

Knobs: `steps`, the most words in a sentence; `spread`, 0 to 1, how far lengths lie apart; the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import count_up, lengths, lstm, lstm_parameters, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters

Values = Mapping[str, Any]
SIZE = {"steps": 40, "spread": 0.5, "embedding": 128, "hidden": 256, "vocabulary": 10_000}
QUICK = {"steps": 16, "embedding": 32, "hidden": 64, "vocabulary": 1000}


def init(size: Size, rng: Rng) -> Arrays:
    """`embedding` (vocabulary, embedding), `cell.*`, `out.*`."""
    return {
        "embedding": rng.normal(size=(size["vocabulary"], size["embedding"])).astype(np.float32),
        **lstm_parameters(rng, "cell", size["embedding"], size["hidden"]),
        **dense_parameters(rng, "out", size["hidden"], size["vocabulary"]),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`word` (steps + 1, batch), the first row the start of sentence, and `length` (batch,), at least 1, falling."""
    found = np.maximum(lengths(rng, batch_size, size["steps"], size["spread"]), 1)
    words = np.minimum(rng.zipf(1.2, (size["steps"] + 1, batch_size)), size["vocabulary"] - 1)
    words[0] = 0
    return {"word": words, "length": -np.sort(-found)}


def start(ops: Namespace, params: Values, rows: int) -> tuple[Any, Any]:
    """h and c, zeros."""
    weight = params["cell.weight_hh"]
    nothing = zeros(ops, weight, rows, weight.shape[1])
    return nothing, nothing


def masked_loss(ops: Namespace, params: Values, outputs: Any, batch: Values) -> Any:
    """Mean negative log-likelihood of the real words, from outputs (steps, batch, hidden) for all places."""
    steps, rows, hidden = outputs.shape
    logits = ops.linear(ops.reshape(outputs, shape=(steps * rows, hidden)), params["out.weight"], params["out.bias"])
    target = ops.reshape(batch["word"][1:], shape=(steps * rows, 1))
    found = ops.reshape(ops.gather(ops.log_softmax(logits, dim=1), target, dim=1), shape=(steps, rows))
    real = ops.reshape(count_up(ops, target, steps), shape=(steps, 1)) < batch["length"]
    return -ops.sum(ops.where(real, found, 0.0)) / ops.sum(batch["length"])


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Rows leave the batch as their sentences end: nothing is computed that is not needed."""
    word, length = batch["word"], batch["length"].tolist()
    h, c = start(ops, params, len(length))
    inputs = ops.unstack(ops.embedding(params["embedding"], word[: length[0]]))
    outputs, targets = [], []
    for t, every in enumerate(inputs):
        rows = sum(n > t for n in length)
        x, h, c = (every, h, c) if rows == len(length) else (every[:rows], h[:rows], c[:rows])
        h, c = lstm(ops, params, "cell", x, h, c)
        outputs.append(h)
        targets.append(word[t + 1, :rows])
    logits = ops.linear(ops.concat(outputs), params["out.weight"], params["out.bias"])
    return ops.cross_entropy(logits, ops.concat(targets))


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A scan over all places, masked in the end."""
    inputs = ops.embedding(params["embedding"], batch["word"][:-1])

    def body(carry: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], Any]:
        h, c = lstm(ops, params, "cell", x, *carry)
        return (h, c), h

    _, outputs = ops.scan(body, start(ops, params, inputs.shape[1]), inputs)
    return masked_loss(ops, params, outputs, batch)


def unrolled(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """All places one after the other, masked in the end."""
    h, c = start(ops, params, batch["length"].shape[0])
    outputs = []
    for x in ops.unstack(ops.embedding(params["embedding"], batch["word"][:-1])):
        h, c = lstm(ops, params, "cell", x, h, c)
        outputs.append(h)
    return masked_loss(ops, params, ops.stack(outputs), batch)


WORKLOAD = control_flow(
    "rnn_lm",
    init,
    batch,
    {"dynamic": dynamic, "static": static, "unrolled": unrolled},
    SIZE,
    quick=QUICK,
    structure=("length",),
)
