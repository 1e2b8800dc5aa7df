"""How a graph meets changing shapes: what each policy compiles, pads, masks and counts, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from engines.engine import Varying
from engines.graph import Bucket, Compiled, Exact, Pad, Policy, Symbolic
from engines.graph.lower import compiler
from engines.graph.shapes.cache import Cache
from engines.graph.shapes.fit import fit
from engines.tape import Tape
from engines.value import EngineError
from tests.programs import at, tensor

ROWS = Varying("rows", (("x", 0), ("y", 0)), least=2, most=20)
COLUMNS = Varying("columns", (("x", 1),), least=2, most=40)
POLICIES: tuple[Policy, ...] = (Exact(), Bucket(), Bucket({"rows": (4, 20), "columns": (40,)}), Pad(), Symbolic())


def loss(ops: Any, parameters: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    """The mean over rows of (mean over columns of tanh(w x) - y)^2, as far as they are no padding."""
    x = ops.tanh(batch["x"] * parameters["w"])
    off = (average(ops, x, batch.get(COLUMNS.mask), dim=1) - batch["y"]) ** 2.0
    return average(ops, off, batch.get(ROWS.mask), dim=0)


def average(ops: Any, x: Any, mask: Any, *, dim: int) -> Any:
    if mask is None:
        return ops.mean(x, dim=dim)
    return ops.sum(ops.where(mask, x, 0.0), dim=dim) / ops.sum(ops.cast(mask, dtype="float64"))


def data(rows: int, columns: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    batch = {
        "x": tensor(rows, columns, seed=seed, dtype=np.float64),
        "y": tensor(rows, seed=seed + 1, dtype=np.float64),
    }
    return {"w": torch.tensor([0.75], dtype=torch.float64)}, batch


def on_tape(parameters: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    with Tape() as tape:
        w = tape.parameter(parameters["w"])
        found = loss(tape.ops, {"w": w}, {name: tape.constant(value) for name, value in batch.items()}, None)
        return [found.data, *(g.data for g in tape.gradients(found, [w]))]


# The policies


@pytest.mark.parametrize(
    ("policy", "sizes"),
    [
        (Exact(), {2: 2, 7: 7, 20: 20, 1000: 1000}),
        (Bucket(), {1: 1, 2: 2, 3: 4, 8: 8, 9: 16, 17: 20, 20: 20}),
        (Bucket({"rows": (6, 3, 12)}), {1: 3, 3: 3, 4: 6, 6: 6, 12: 12}),
        (Bucket({"columns": (5,)}), {5: 8}),
        (Pad(), {1: 20, 20: 20}),
        (Symbolic(), {2: 2, 20: 20}),
    ],
)
def test_what_a_policy_makes_of_a_size(policy: Policy, sizes: dict[int, int]) -> None:
    assert {size: policy.fitting(ROWS, size) for size in sizes} == sizes


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_every_policy_gives_the_tape_s_loss_and_gradient(policy: Policy) -> None:
    compiled = Compiled(loss, policy=policy, varying=(ROWS, COLUMNS))
    for seed, (rows, columns) in enumerate([(2, 2), (2, 40), (20, 2), (20, 40), (7, 11), (8, 16), (9, 17), (7, 11)]):
        parameters, batch = data(rows, columns, seed)
        found = compiled(parameters, batch, None)
        for one, other in zip(found.values(), on_tape(parameters, batch), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_padding_and_masks_are_these() -> None:
    parameters, batch = data(3, 2)
    fitted = fit(Bucket(), (ROWS, COLUMNS), {**batch, "other": parameters["w"]})
    assert fitted.sizes == {"rows": 4, "columns": 2}
    torch.testing.assert_close(fitted.batch["x"], torch.cat([batch["x"], torch.zeros(1, 2, dtype=torch.float64)]))
    assert fitted.batch["y"].shape == (4,)
    assert fitted.batch["other"] is parameters["w"]
    assert fitted.batch["rows.mask"].tolist() == [True, True, True, False]
    assert fitted.batch["columns.mask"].tolist() == [True, True]
    assert (fitted.useful_elements, fitted.padded_elements) == (9, 3)


def test_what_fits_as_it_is_is_not_copied() -> None:
    _, batch = data(4, 8)
    fitted = fit(Bucket(), (ROWS, COLUMNS), batch)
    assert fitted.batch["x"] is batch["x"]
    assert fitted.padded_elements == 0


# What is counted


@pytest.mark.parametrize(
    ("policy", "counted"),
    [
        (Exact(), {"compilations": 4, "hits": 2, "evictions": 0, "executables": 4, "padded_elements": 0}),
        (Exact(capacity=2), {"compilations": 5, "hits": 1, "evictions": 3, "executables": 2, "padded_elements": 0}),
        (Bucket(), {"compilations": 2, "hits": 4, "evictions": 0, "executables": 2, "padded_elements": 78}),
        (Pad(), {"compilations": 1, "hits": 5, "evictions": 0, "executables": 1, "padded_elements": 4778}),
        (Symbolic(), {"compilations": 1, "hits": 5, "evictions": 0, "executables": 1, "padded_elements": 0}),
    ],
    ids=repr,
)
def test_compilations_hits_evictions_and_padding_are_counted(policy: Policy, counted: dict[str, int]) -> None:
    compiled = Compiled(loss, policy=policy, varying=(ROWS, COLUMNS))
    for rows, columns in ((3, 5), (4, 8), (3, 5), (4, 7), (5, 3), (3, 5)):
        compiled(*data(rows, columns), None)
    assert compiled.counters == {"useful_elements": 15 * 3 + 32 + 28 + 15 + 3 * 3 + 4 + 4 + 5, **counted}


def test_regions_that_no_compiler_takes_are_counted_over_all_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.say_once.cache_clear()
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    compiled = Compiled(loss, policy=Exact(capacity=1), varying=(ROWS, COLUMNS))
    with pytest.warns(RuntimeWarning, match="fused regions run as single kernels"):
        compiled(*data(3, 5), None)
    once = compiled.counters["regions_on_kernels"]
    compiled(*data(4, 5), None)
    assert compiled.counters["regions_on_kernels"] == 2 * once > 0


def test_five_hundred_shapes_stay_within_the_cache_s_bound() -> None:
    compiled = Compiled(loss, quantity="forward", passes=(), policy=Exact(capacity=16), varying=(ROWS, COLUMNS))
    shapes = [(rows, columns) for rows in range(2, 21) for columns in range(2, 41)][:500]
    for rows, columns in shapes:
        compiled(*data(rows, columns), None)
        assert len(compiled.executables) <= 16
    assert compiled.counters["compilations"] == 500
    assert compiled.counters["evictions"] == 500 - 16


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str] = Cache(2)
    for key in "abacab":
        assert cache.get(key, lambda key=key: key.upper()) == key.upper()  # type: ignore[misc]
    assert (cache.made, cache.hits, cache.evicted, len(cache)) == (4, 2, 2, 2)


def test_what_cannot_be_made_is_not_kept() -> None:
    cache: Cache[float] = Cache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert (len(cache), cache.made, cache.get("a", lambda: 1.0)) == (0, 0, 1.0)


def test_threads_that_ask_for_one_shape_get_one_executable() -> None:
    compiled = Compiled(loss, passes=(), varying=(ROWS, COLUMNS))
    parameters, batch = data(3, 5)
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(compiled(parameters, batch, None)["loss"])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {float(value) for value in found} == {float(on_tape(parameters, batch)[0])}
    assert (compiled.counters["compilations"], compiled.counters["hits"]) == (1, 7)


# Refusals


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Bucket(), "bucket: rows is 21 (dimension 0 of 'x'), above the maximum 20"),
        (Bucket({"rows": (4, 8)}), "bucket: rows is 21 (dimension 0 of 'x'), above the maximum 8"),
        (Pad(), "pad: rows is 21 (dimension 0 of 'x'), above the maximum 20"),
        (Symbolic(), "symbolic: rows is 21 (dimension 0 of 'x'), above the maximum 20"),
    ],
    ids=repr,
)
def test_a_size_above_the_maximum_is_one_error_at_the_user_s_line(policy: Policy, told: str) -> None:
    compiled = Compiled(loss, policy=policy, varying=(ROWS, COLUMNS))
    parameters, batch = data(21, 5)
    with pytest.raises(EngineError) as caught:
        compiled(parameters, batch, None)  # the call
    assert str(caught.value) == f"{told}, at {at('the call')}"
    assert compiled.counters["compilations"] == compiled.counters["useful_elements"] == 0


@pytest.mark.parametrize(
    ("policy", "varying", "told"),
    [
        (Pad(), Varying("rows", (("x", 0),)), r"pad: rows has no maximum \(most=None\) to pad to, at test_shapes"),
        (Exact(), Varying("rows", (("z", 0),)), r"rows: should be dimension 0 of 'z', found entries \['x', 'y'\], at"),
        (Exact(), Varying("rows", (("y", 1),)), r"rows: should be dimension 1 of 'y', found 'y' of shape \(3,\), at"),
        (
            Exact(),
            Varying("rows", (("x", 1), ("y", 0))),
            r"its places must have one size, found 5 as dimension 1 of 'x', 3 as dimension 0 of 'y', at test_shapes",
        ),
        (
            Symbolic(),
            Varying("rows", (("x", 0), ("y", 0)), least=4),
            "rows is 3, below the minimum 4 that was declared",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(policy: Policy, varying: Varying, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        Compiled(loss, policy=policy, varying=(varying,))(*data(3, 5), None)


def test_a_loss_that_takes_no_notice_of_a_mask_is_refused() -> None:
    def careless(ops: Any, parameters: Any, batch: Any, _key: Any) -> Any:
        return average(ops, ops.mean(batch["x"] * parameters["w"], dim=1), batch[ROWS.mask], dim=0)

    with pytest.raises(EngineError, match=r"bucket: the loss test_shapes does not depend on 'columns.mask', so that"):
        Compiled(careless, policy=Bucket(), varying=(ROWS, COLUMNS))(*data(3, 5), None)


def test_a_cache_holds_at_least_one() -> None:
    with pytest.raises(EngineError, match="a capacity is at least 1, found 0"):
        Compiled(loss, policy=Exact(capacity=0))
