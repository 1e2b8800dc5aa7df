"""How commands end."""

from __future__ import annotations

import subprocess
import sys

from suites.harness import exits
from tests.test_store import ROOT

STRUCK = """
import sys

from suites.harness.exits import interruptible

@interruptible
def main(arguments=None):
    exec("raise KeyboardInterrupt")

sys.exit(main())
"""


def test_ctrl_c_while_a_module_makes_its_dataclasses_ends_with_the_code_too(tmp_path):
    (tmp_path / "struck.py").write_text(STRUCK)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ended = subprocess.run(
        [sys.executable, "-m", "struck"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (exits.INTERRUPTED, "\ninterrupted\n")
