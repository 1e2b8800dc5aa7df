"""What every test relies on."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def a_run_of_its_own() -> Iterator[None]:
    """Keep what marks a process of pytest-xdist from the runs that tests start: they would refuse to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield
