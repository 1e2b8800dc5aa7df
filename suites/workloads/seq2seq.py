"""The decoder of a translation model, fed with its own words until every sentence has ended.

A step is an embedding, an LSTM cell, a linear layer and an argmax; hidden 256, vocabulary 3797, at most 50 steps, as in
MagPy (Zhang et al., ATC 2024). It starts from an encoder's state, which the batch holds; the loss is the cross-entropy
against a reference sentence.

Knobs: `steps`, the most words; `spread`, 0 to 1, how far lengths lie apart; `hidden`, `vocabulary`. So that lengths
can be set while weights are trained, the batch's `length` raises the score of the end of sentence where it is due and
lowers it before; whether a row has ended is still read from the word chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import lengths, lstm, lstm_parameters, row, zeros
from suites.workloads.workload import Arrays, Rng, Size, control_flow, dense_parameters

Values = Mapping[str, Any]
SIZE = {"steps": 50, "spread": 0.5, "hidden": 256, "vocabulary": 3797}
QUICK = {"steps": 20, "hidden": 64, "vocabulary": 500}
END, START = 0, 1
PUSH = 20.0


def init(size: Size, rng: Rng) -> Arrays:
    """`embedding` (vocabulary, hidden), `cell.*`, `out.*`."""
    hidden, vocabulary = size["hidden"], size["vocabulary"]
    return {
        "embedding": rng.normal(size=(vocabulary, hidden)).astype(np.float32),
        **lstm_parameters(rng, "cell", hidden, hidden),
        **dense_parameters(rng, "out", hidden, vocabulary),
    }


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`state` (batch, hidden), `target` (steps, batch), `length` (batch,) with the end counted; 0: nothing to say."""
    length, steps = lengths(rng, batch_size, size["steps"], size["spread"]), size["steps"]
    target = rng.integers(START + 1, size["vocabulary"], (steps, batch_size))
    ended = np.arange(1, steps + 1)[:, None] >= length
    return {
        "state": rng.normal(size=(batch_size, size["hidden"])).astype(np.float32),
        "target": np.where(ended, END, target),
        "length": length,
    }


def scores(ops: Namespace, params: Values, word: Any, state: tuple[Any, Any], due: Any) -> tuple[Any, tuple[Any, Any]]:
    """Log-probabilities (rows, vocabulary) of the next word, and the next state; `due` (rows,): the end should come."""
    state = lstm(ops, params, "cell", ops.embedding(params["embedding"], word), *state)
    logits = ops.linear(state[0], params["out.weight"], params["out.bias"])
    push = ops.where(due, PUSH, ops.full_like(logits, shape=tuple(due.shape), value=-PUSH))
    push = ops.pad(ops.reshape(push, shape=(-1, 1)), widths=((0, 0), (END, logits.shape[1] - END - 1)))
    return ops.log_softmax(logits + push, dim=1), state


def start(ops: Namespace, params: Values, batch: Values) -> dict[str, Any]:
    """Nothing said yet. The loss is a zero that depends on parameters: to say nothing has gradients, all zero."""
    state, length = batch["state"], batch["length"]
    return {
        "word": ops.full_like(length, value=START),
        "state": (state, zeros(ops, state, *state.shape)),
        "ended": length <= 0,
        "loss": params["out.bias"][END] * 0.0,
        "t": zeros(ops, length),
    }


def say(ops: Namespace, params: Values, batch: Values, carry: Values) -> dict[str, Any]:
    """One more word in every row; rows that have ended no longer count."""
    t, ended = carry["t"], carry["ended"]
    found, state = scores(ops, params, carry["word"], carry["state"], batch["length"] <= t + 1)
    target = ops.reshape(row(ops, batch["target"], t), shape=(-1, 1))
    right = ops.reshape(ops.gather(found, target, dim=1), shape=(-1,))
    word = ops.argmax(found, dim=1)
    return {
        "word": word,
        "state": state,
        "ended": ops.logical_or(ended, ops.equal(word, END)),
        "loss": carry["loss"] - ops.sum(ops.where(ended, 0.0, right)),
        "t": t + 1,
    }


def goes_on(ops: Namespace, batch: Values, carry: Values) -> Any:
    """Whether some row has not ended and may say more."""
    return ops.logical_and(ops.logical_not(ops.all(carry["ended"])), carry["t"] < batch["target"].shape[0])


def per_word(ops: Namespace, batch: Values, carry: Values) -> Any:
    """Cross-entropy for each word."""
    words = ops.sum(batch["length"])
    return carry["loss"] / ops.where(words > 0, words, 1)


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """Python's `while`."""
    carry = start(ops, params, batch)
    while goes_on(ops, batch, carry):
        carry = say(ops, params, batch, carry)
    return per_word(ops, batch, carry)


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop in the graph."""
    carry = ops.while_loop(
        partial(goes_on, ops, batch),
        partial(say, ops, params, batch),
        start(ops, params, batch),
        limit=batch["target"].shape[0],
    )
    return per_word(ops, batch, carry)


def unrolled(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """As many steps as there may be, one after the other in the graph."""
    carry = start(ops, params, batch)
    for _step in range(batch["target"].shape[0]):
        carry = say(ops, params, batch, carry)
    return per_word(ops, batch, carry)


WORKLOAD = control_flow(
    "seq2seq", init, batch, {"dynamic": dynamic, "static": static, "unrolled": unrolled}, SIZE, quick=QUICK
)
