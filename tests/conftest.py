"""What every test relies on, and what several ask for."""

import gc
from collections.abc import Iterator

import pytest
import torch

from engines.graph.lower.registers import registers
from engines.tape import Tape


@pytest.fixture(scope="session", autouse=True)
def a_run_of_its_own() -> Iterator[None]:
    """Keep what marks a process of pytest-xdist from the runs that tests start: they would refuse to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield


@pytest.fixture(params=["AVX512", "AVX2", "DEFAULT"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What is written in C is written for such a processor. A compiler makes it run on this one, if not as fast."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    registers.cache_clear()
    yield request.param
    registers.cache_clear()


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape() as tape:
        yield tape


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory within."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
