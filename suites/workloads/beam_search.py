"""Beam search on the decoder of `seq2seq`: several unfinished sentences are kept, until all of them have ended.

Beams of 4 and 8. What is trained is the mean log-probability of the sentences that the search finds, through the
choices as they were made.

Knobs: `beam`, and those of `seq2seq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.op import Namespace
from suites.workloads.cells import lengths, zeros
from suites.workloads.seq2seq import END, QUICK, START, init, scores
from suites.workloads.seq2seq import SIZE as DECODER
from suites.workloads.workload import Arrays, Rng, Size, control_flow

Values = Mapping[str, Any]
SIZE = {"beam": 4, **DECODER}
NEVER = -1e9
LIMIT = 100_000


def batch(size: Size, rng: Rng, batch_size: int) -> Arrays:
    """`state` (batch, hidden), `length` (batch,), at least 1; `score` (batch, beam): at first one empty sentence."""
    steps, beam = size["steps"], size["beam"]
    return {
        "state": rng.normal(size=(batch_size, size["hidden"])).astype(np.float32),
        "length": np.maximum(lengths(rng, batch_size, steps, size["spread"]), 1),
        "score": np.tile(np.where(np.arange(beam) == 0, 0.0, NEVER), (batch_size, 1)).astype(np.float32),
    }


@dataclass(frozen=True)
class Sentence:
    """One of the beam: its last word (1,), the state after it (1, hidden) each, its score (1,)."""

    word: Any
    state: tuple[Any, Any]
    score: Any
    ended: bool = False


def extended(ops: Namespace, params: Values, beam: list[Sentence], width: int, due: Any) -> list[Sentence]:
    """The best `width` of: each unfinished sentence with each word, and those that have ended as they are."""
    open, ended = [s for s in beam if not s.ended], [s for s in beam if s.ended]
    word, h, c = (ops.concat(parts) for parts in zip(*((s.word, *s.state) for s in open), strict=True))
    found, (h, c) = scores(ops, params, word, (h, c), due)
    vocabulary = found.shape[1]
    total = ops.reshape(ops.reshape(ops.concat([s.score for s in open]), shape=(-1, 1)) + found, shape=(-1,))
    best, picked = ops.topk(ops.concat([total, *(s.score for s in ended)]), k=width, dim=0)
    new = []
    for rank, place in enumerate(picked.tolist()):
        score = best[rank : rank + 1]
        parent, said = divmod(place, vocabulary)
        if parent >= len(open):
            old = ended[place - len(open) * vocabulary]
            new.append(Sentence(old.word, old.state, score, ended=True))
        else:
            state = h[parent : parent + 1], c[parent : parent + 1]
            word = picked[rank : rank + 1] - parent * vocabulary
            new.append(Sentence(word, state, score, ended=said == END))
    return new


def dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A list of sentences for each row, of which only the unfinished are computed."""
    state, length, (rows, width) = batch["state"], batch["length"], batch["score"].shape
    found = []
    for index in range(rows):
        h = state[index : index + 1]
        word = ops.full_like(length, shape=(1,), value=START)
        beam, t = [Sentence(word, (h, zeros(ops, h, *h.shape)), batch["score"][index, :1])], 0
        while not all(sentence.ended for sentence in beam):
            t += 1
            beam = extended(ops, params, beam, width, length[index : index + 1] <= t)
        found += [sentence.score for sentence in beam]
    return -ops.mean(ops.concat(found))


def static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    """A loop in the graph over the beams of all rows; an ended sentence goes on with nothing but its end."""
    state, length, (rows, width) = batch["state"], batch["length"], batch["score"].shape
    hidden, vocabulary = state.shape[1], params["out.bias"].shape[0]
    per_row = ops.reshape(length, shape=(rows, 1))
    offset = (ops.cumsum(ops.full_like(per_row, value=1), dim=0) - 1) * width
    only_end = ops.pad(zeros(ops, state, 1, 1), widths=((0, 0), (END, vocabulary - END - 1)), value=NEVER)

    def body(carry: Values) -> dict[str, Any]:
        due = ops.reshape(ops.broadcast_to(per_row <= carry["t"] + 1, shape=(rows, width)), shape=(-1,))
        found, state = scores(ops, params, carry["word"], carry["state"], due)
        found = ops.where(ops.reshape(carry["ended"], shape=(-1, 1)), only_end, found)
        total = ops.reshape(carry["score"], shape=(rows * width, 1)) + found
        score, place = ops.topk(ops.reshape(total, shape=(rows, width * vocabulary)), k=width, dim=1)
        parent = ops.floor_divide(place, vocabulary)
        word = ops.reshape(place - parent * vocabulary, shape=(-1,))
        source = ops.reshape(parent + offset, shape=(-1,))
        return {
            "word": word,
            "state": tuple(ops.embedding(part, source) for part in state),
            "score": score,
            "ended": ops.logical_or(ops.gather(carry["ended"], source, dim=0), ops.equal(word, END)),
            "t": carry["t"] + 1,
        }

    first = ops.broadcast_to(ops.reshape(state, shape=(rows, 1, hidden)), shape=(rows, width, hidden))
    first = ops.reshape(first, shape=(rows * width, hidden))
    word = ops.full_like(length, shape=(rows * width,), value=START)
    carry = {
        "word": word,
        "state": (first, zeros(ops, first, *first.shape)),
        "score": batch["score"],
        "ended": word < 0,
        "t": zeros(ops, length),
    }
    carry = ops.while_loop(lambda carry: ops.logical_not(ops.all(carry["ended"])), body, carry, limit=LIMIT)
    return -ops.mean(carry["score"])


WORKLOAD = control_flow("beam_search", init, batch, {"dynamic": dynamic, "static": static}, SIZE, quick=QUICK)
