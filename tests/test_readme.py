"""What the README shows runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_python_block_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tanh_backward" in done.stdout


def test_every_file_it_links_to_is_there():
    for page in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page}: {target}"


FIGURE = r"([\d.]+)\s\u00d7\s\[([\d.]+),\s([\d.]+)\]"
"""A ratio with its interval, as the documents write it."""


def stored_ratios() -> set[tuple[float, float, float]]:
    runs = (json.loads(path.read_text()) for path in (ROOT / "results").glob("*/[0-9]*.json"))
    rows = (row["extra_info"] for run in runs for row in run["benchmarks"])
    ratios = (ratio for row in rows for ratio in row.get("ratios") or [])
    return {(round(it["value"], 3), round(it["low"], 3), round(it["high"], 3)) for it in ratios}


def test_every_ratio_that_is_told_with_an_interval_is_a_stored_one():
    told = [
        tuple(float(part) for part in found)
        for page in ("README.md", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
        for found in re.findall(FIGURE, (ROOT / page).read_text())
    ]
    assert len(told) >= 5
    stored = stored_ratios()
    assert [it for it in told if it not in stored] == []
