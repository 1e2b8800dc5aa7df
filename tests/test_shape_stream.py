"""The workload `shape_stream`: its shapes, its masked loss, and every policy beside the tape over a whole stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engines.engine import Outputs, Program, Quantity
from engines.graph.engine import GraphEngine
from engines.graph.lower import compiler
from engines.graph.shapes import Bucket, Exact, Pad, Policy, Symbolic
from engines.graph.shapes.fit import fit
from engines.ops import KERNELS
from engines.ops.random import step_key
from engines.peers.torch_eager import TorchEager
from engines.tape.engine import TapeEngine
from suites.harness.effort import EFFORTS
from suites.harness.stream import pass_twice
from suites.streams import LOSS_TOLERANCE, POLICIES, by_policy
from suites.test_shapes import cells
from suites.workloads import load_workload
from suites.workloads.shape_stream import VARYING, work
from suites.workloads.shapes import COLUMNS, LAWS, ROWS, WORDS_PER_SENTENCE, shapes

STREAMS = ("shape_stream", "shape_stream_zipf", "shape_stream_sentences")


# Streams


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("distinct", [1, 7, 500])
def test_a_stream_has_the_shapes_that_it_claims_and_the_same_work(law: str, distinct: int) -> None:
    found, whole = (
        shapes(law, np.random.default_rng(3), steps=500, distinct=count, work=work) for count in (distinct, 500)
    )
    assert len(found) == 500
    assert len(set(found)) == distinct
    assert all(ROWS[0] <= rows <= ROWS[1] and COLUMNS[0] <= columns <= COLUMNS[1] for rows, columns in found)
    spent, wanted = (sum(work(*shape) for shape in stream) for stream in (found, whole))
    assert spent == pytest.approx(wanted, rel=0.01)


def test_laws_differ_in_what_is_frequent() -> None:
    means = {
        law: np.mean(shapes(law, np.random.default_rng(0), steps=100, distinct=100, work=work), axis=0) for law in LAWS
    }
    assert means["uniform"] == pytest.approx([9, 34], rel=0.15)
    assert all(means["zipf"] < 0.8 * means["uniform"])
    assert means["sentences"][1] < 0.7 * means["uniform"][1]
    assert len(WORDS_PER_SENTENCE) == COLUMNS[1] - COLUMNS[0] + 1


@pytest.mark.parametrize(
    ("steps", "distinct", "told"), [(10, 11, "found 11"), (10, 0, "found 0"), (2000, 1, "most 915")]
)
def test_a_stream_that_cannot_be_is_refused(steps: int, distinct: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        shapes("uniform", np.random.default_rng(0), steps=steps, distinct=distinct, work=work)


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_seed_gives_the_same_stream_whose_first_batch_is_the_task_s(name: str) -> None:
    model = load_workload(name).sized({"steps": 5, "distinct": 5})
    first, again = (list(model.stream(np.random.default_rng([0, 1]))) for _ in range(2))  # type: ignore[misc]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["tokens"], other["tokens"])
    np.testing.assert_array_equal(model.task("step", 1).batch["tokens"], first[0]["tokens"])


# The loss


def prepared(engine: Any, quantity: Quantity) -> tuple[Program, list[Any]]:
    model = load_workload("shape_stream").sized({"steps": 3, "distinct": 3})
    program = engine.prepare(model.task(quantity, 1, dtype="float64"))
    assert model.stream is not None
    return program, list(model.stream(np.random.default_rng([0, 1])))


def outputs(engine: Any, quantity: Quantity) -> list[Outputs]:
    program, batches = prepared(engine, quantity)
    return [program.run(program.place(batch, step_key(0, step))) for step, batch in enumerate(batches)]


@pytest.mark.parametrize("policy", [Exact(), Bucket(), Pad(), Symbolic()], ids=lambda policy: policy.name)
def test_every_policy_agrees_with_the_tape_in_loss_and_all_gradients(policy: Policy) -> None:
    for ours, tape in zip(
        outputs(GraphEngine(policy=policy), "loss_and_grad"), outputs(TapeEngine(), "loss_and_grad"), strict=True
    ):
        torch.testing.assert_close(ours.loss, tape.loss, rtol=1e-12, atol=0.0)
        assert ours.gradients.keys() == tape.gradients.keys()
        for name, wanted in tape.gradients.items():
            torch.testing.assert_close(ours.gradients[name], wanted, rtol=1e-12, atol=1e-12, msg=name)


def test_the_symbolic_graph_is_equal_to_the_tape_to_the_bit() -> None:
    for ours, tape in zip(
        outputs(GraphEngine(policy=Symbolic()), "loss_and_grad"), outputs(TapeEngine(), "loss_and_grad"), strict=True
    ):
        assert torch.equal(ours.loss, tape.loss)
        assert all(torch.equal(ours.gradients[name], wanted) for name, wanted in tape.gradients.items())


def test_the_loss_is_that_of_a_plain_module() -> None:
    """The same layer from torch's own parts, in evaluation, masks and all."""
    program, batches = prepared(TorchEager(), "forward")
    p = {name: value.detach() for name, value in program.parameters.items()}
    layer = torch.nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, batch_first=True, dtype=torch.float64)
    # Ours has the heads of q, k and v side by side, as torch's in_proj has.
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": p["qkv.weight"],
            "self_attn.in_proj_bias": p["qkv.bias"],
            **{
                f"{theirs}.{part}": p[f"{ours}.{part}"] for theirs, ours in NAMES.items() for part in ("weight", "bias")
            },
        }
    )
    for batch in batches:
        tokens, label = torch.tensor(batch["tokens"]), torch.tensor(batch["label"])
        x = p["token.weight"][tokens] + p["position.weight"][: tokens.shape[1]]
        pooled = layer(x).mean(dim=1)
        wanted = torch.nn.functional.cross_entropy(pooled @ p["head.weight"].T + p["head.bias"], label)
        model = load_workload("shape_stream")
        placed = {"tokens": tokens, "label": label}
        for given in (placed, fit(Pad(), VARYING, placed).batch):
            torch.testing.assert_close(model.loss(KERNELS, p, given, None), wanted.detach(), rtol=1e-12, atol=0.0)


NAMES = {"self_attn.out_proj": "out", "linear1": "up", "linear2": "down", "norm1": "norm1", "norm2": "norm2"}


def test_what_stands_in_the_padding_changes_nothing() -> None:
    program, batches = prepared(TapeEngine(), "forward")
    placed = {name: torch.tensor(value) for name, value in batches[0].items()}
    padded = dict(fit(Pad(), VARYING, placed).batch)
    model = load_workload("shape_stream")
    before = model.loss(KERNELS, program.parameters, padded, None)
    rows, columns = placed["tokens"].shape
    padded["tokens"][rows:], padded["tokens"][:, columns:], padded["label"][rows:] = 7, 9, 3
    assert torch.equal(model.loss(KERNELS, program.parameters, padded, None), before)


# The suite


def test_a_stream_from_nothing_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "load", lambda _: None)  # from empty caches each shape would be compiled
    (cell,) = cells(replace(EFFORTS["quick"], streams=(5, 3)), "cpu")
    found = {name: pass_twice(cell, by_policy(cell, name)) for name in ("tape", *POLICIES)}
    for name, one in found.items():
        assert len(one.first_seconds) == len(one.again_seconds) == len(one.losses) == 5
        assert one.prepare_seconds > 0.0
        np.testing.assert_allclose(one.losses, found["tape"].losses, rtol=LOSS_TOLERANCE, err_msg=name)
    counted = {name: found[name].counters for name in POLICIES}
    assert {name: c["compilations"] for name, c in counted.items()} == {
        "graph_exact": 3,
        "graph_bucket": 2,
        "graph_pad": 1,
        "graph_symbolic": 1,
    }
    assert {c["compilations"] + c["hits"] for c in counted.values()} == {6}  # one to get ready, one a step
    assert counted["graph_pad"]["padded_elements"] > counted["graph_bucket"]["padded_elements"] > 0
    assert counted["graph_exact"]["padded_elements"] == counted["graph_symbolic"]["padded_elements"] == 0
