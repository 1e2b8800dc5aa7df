"""Workers: what one does after a fault, so that it costs nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest

from suites.harness.cell import Cell
from suites.harness.conductor import Conductor, Worker
from suites.harness.contender import Contender
from suites.harness.protocol import WorkerError
from tests.faulty import LOADER

CELL = Cell("backward", "chain", "loss_and_grad", knobs=(("elements", 4), ("ops", 10)))


@pytest.fixture(scope="module")
def conductor() -> Iterator[Conductor]:
    with Conductor() as made:
        made.expect([Contender("right", loader=LOADER)])
        yield made


def ready(conductor: Conductor, name: str) -> Worker:
    contender = Contender(name, loader=LOADER)
    worker = conductor.worker(contender)
    assert isinstance(worker, Worker)
    worker.ask("prepare", cell=asdict(CELL), contender=contender.data())
    return worker


def test_a_process_that_lost_its_device_is_ended_and_another_refusal_ends_none(conductor: Conductor) -> None:
    lost, failed = ready(conductor, "loses the device"), ready(conductor, "fails")
    with pytest.raises(WorkerError, match="CUDA error: an illegal memory access") as fault:
        lost.ask("first_call")
    assert fault.value.status == "failed"
    assert lost.pid == 0
    with pytest.raises(WorkerError, match="broken"):
        failed.ask("first_call")
    assert failed.pid != 0


def test_who_has_too_little_memory_lets_go_of_what_he_had(conductor: Conductor) -> None:
    worker = ready(conductor, "runs out")
    worker.ask("counters")
    with pytest.raises(WorkerError) as fault:
        worker.ask("first_call")
    assert fault.value.status == "out of memory"
    with pytest.raises(WorkerError, match="nothing is ready"):
        worker.ask("counters")


def test_a_judge_that_fails_leaves_no_results_and_judges_the_next(conductor: Conductor) -> None:
    results = ready(conductor, "right").ask("results")
    spoilt = conductor.folder / "spoilt.npz"
    spoilt.write_bytes(b"no arrays")
    with pytest.raises(WorkerError):
        conductor.judge.ask("judge", cell=asdict(CELL), path=str(spoilt))
    assert not spoilt.exists()
    pid = conductor.judge.pid
    assert conductor.judge.ask("judge", cell=asdict(CELL), **results)["verdict"] == "agrees"
    assert conductor.judge.pid == pid
    assert not list(conductor.folder.glob("*.npz"))
