"""The suites as a user runs them: options, stored files, exit codes. Every run is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from suites.harness import exits
from suites.learn import main

ROOT = Path(__file__).parent.parent


def suites(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def stored(folder: Path) -> dict:
    (file,) = folder.rglob("*.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict:
    """A small run of one cell, as stored."""
    folder = tmp_path_factory.mktemp("results")
    done = suites(
        "suites/test_backward.py",
        "suites/test_dispatch.py",
        "--benchmark-only",
        "--results",
        str(folder),
        "-k",
        "lenet5-b1-loss or (chain-e and not torch_compile)",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'backward: lenet5-b1-loss_and_grad-cpu': 4 tests" in done.stdout
    return stored(folder)


def test_a_row_for_every_engine_with_all_its_facts(run):
    rows = [b for b in run["benchmarks"] if b["extra_info"]["question"] == "backward"]
    assert [b["extra_info"]["engine"] for b in rows] == ["tape", "graph", "graph_replay", "torch_eager"]
    for row in rows:
        info = row["extra_info"]
        assert info["schema"] == 2
        assert (info["workload"], info["batch_size"], info["quantity"]) == ("lenet5", 1, "loss_and_grad")
        assert info["agreement"]["verdict"] == "agrees"
        assert info["status"] == "measured"
        assert len(info["ratios"]) == 3
    static = rows[1]["extra_info"]
    assert static["style"] == "static"
    assert set(static["phases"]) >= {"trace", "autodiff", "simplify", "fold", "cse", "dce", "lower"}
    assert static["counters"]["nodes"] > 10


def test_all_raw_samples_are_stored_and_equal_in_number(run):
    for question in ("backward", "dispatch"):
        rounds = {len(b["stats"]["data"]) for b in run["benchmarks"] if b["extra_info"]["question"] == question}
        assert len(rounds) == 1
        assert rounds.pop() >= 9
    row = run["benchmarks"][0]
    assert row["stats"]["rounds"] == len(row["stats"]["data"])
    assert row["stats"]["min"] == min(row["stats"]["data"])


def test_the_stored_ratio_is_that_of_the_stored_samples(run):
    by_engine = {b["extra_info"]["engine"]: b for b in run["benchmarks"] if b["extra_info"]["question"] == "backward"}
    tape, eager = (sorted_free(by_engine[name]) for name in ("tape", "torch_eager"))
    ratio = by_engine["tape"]["extra_info"]["ratio"]
    by_round = [a / b for a, b in zip(tape, eager, strict=True)]
    assert ratio["to"] == "torch_eager"
    assert min(by_round) <= ratio["low"] <= ratio["value"] <= ratio["high"] <= max(by_round)
    assert ratio["value"] == pytest.approx(median(by_round), rel=1e-9)


def sorted_free(row: dict) -> list[float]:
    """Samples in the order of the rounds."""
    return row["stats"]["data"]


def test_the_machine_is_described(run):
    environment = run["machine_info"]["environment"]
    assert environment["effort"] == "quick"
    assert len(environment["fingerprint"]) == 16
    assert environment["torch"]


def test_the_settings_of_every_worker_are_stored(run):
    workers = run["workers"]
    assert set(workers) >= {"tape", "tape again", "graph", "torch_eager", "judge"}
    assert {facts["variables"]["PYTHONHASHSEED"] for facts in workers.values()} == {"0"}
    assert all("memory" in facts["allocator"] or "system" in facts["allocator"] for facts in workers.values())


def test_pytest_benchmark_s_own_compare_reads_the_file(run, tmp_path):
    first, second = tmp_path / "0001_a.json", tmp_path / "0002_b.json"
    for file in (first, second):
        file.write_text(json.dumps(run))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(first), str(second)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lenet5-b1-loss_and_grad-cpu-graph_replay" in done.stdout


def test_a_device_that_is_not_there_is_stored_as_skipped_rows(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = suites(
        "suites/test_step.py", "--benchmark-only", "--device", "cuda", "--workload", "mlp", "--results", str(tmp_path)
    )
    assert done.returncode == exits.NOTHING_MEASURED, done.stdout + done.stderr
    run = stored(tmp_path)
    assert run["benchmarks"] == []
    assert len(run["missing"]) == 4
    for row in run["missing"]:
        assert row["extra_info"]["status"] == "skipped"
        assert row["extra_info"]["device"] == "cuda"
        assert row["extra_info"]["reason"] == "no CUDA device on this machine"
        assert row["extra_info"]["style"] in ("dynamic", "static")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--workload", "cn", "no workload named 'cn'; there are cnn,"),
        ("--engine", "taype", "no engine named 'taype'; there are tape,"),
        ("--device", "tpu", "--device: found 'tpu', expected one of cpu, cuda, all"),
        ("--effort", "lazy", "--effort: found 'lazy', expected one of quick, standard, full"),
    ],
)
def test_a_bad_option_is_one_line_and_pytest_s_usage_code(option, value, told):
    done = suites("suites", "--benchmark-only", option, value)
    assert done.returncode == exits.USAGE
    assert told in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_results_folder_that_cannot_be_written_is_told_before_anything_runs(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = suites("suites", "--benchmark-only", "--results", str(blocked / "results"))
    assert done.returncode == exits.UNWRITABLE_RESULTS
    assert f"results folder {blocked}/results cannot be written: Not a directory" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_benchmark_only_every_row_runs_once_untimed_and_nothing_is_stored(tmp_path):
    done = suites("suites/test_forward.py", "--workload", "lenet5", "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    assert list(tmp_path.iterdir()) == []


TELLS = """
from suites.harness.conductor import Conductor
real = Conductor.expect
def expect(self, contenders, devices):
    contenders = list(contenders)
    print("expects", sorted({who.name for who in contenders}), "on", *devices)
    real(self, contenders)
Conductor.expect = expect
"""


def test_the_conductor_is_told_whom_to_expect(tmp_path, monkeypatch):
    """Or workers would load their engines while they are timed."""
    (tmp_path / "tells.py").write_text(TELLS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = suites(
        "suites/test_dispatch.py", "-p", "tells", "-s", "--collect-only", "--engine", "graph", "--engine", "tape"
    )
    assert "expects ['graph', 'tape'] on cpu" in done.stdout, done.stdout + done.stderr


def test_only_the_engines_asked_for_are_measured(tmp_path):
    done = suites(
        "suites/test_dispatch.py",
        "--benchmark-only",
        "--workload",
        "chain",
        "--engine",
        "tape",
        "--results",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stdout
    (row,) = stored(tmp_path)["benchmarks"]
    assert row["extra_info"]["engine"] == "tape"
    assert row["extra_info"]["ratios"] == []


def learn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "suites.learn", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, env=os.environ)


def test_both_styles_learn_the_same_from_the_same_seed():
    done = learn("--workload", "lenet5", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert set(lines) == {"tape", "graph", "graph_replay"}
    assert "bit for bit" in lines["graph_replay"]
    assert (
        lines["tape"].split("test accuracy")[1].split()[0] == lines["graph_replay"].split("test accuracy")[1].split()[0]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--workload", "ccn"], exits.USAGE, "no workload named 'ccn'"),
        (["--engine", "tap"], exits.USAGE, "no engine named 'tap'"),
        (["--workload", "chain"], exits.USAGE, "chain does not classify images"),
        (["--data", "/nowhere"], exits.BAD_DATA, "/nowhere"),
        (["--batch-size", "0"], exits.BAD_DATA, "found 0, expected at least 1"),
        (["--device", "cuda:7"], exits.USAGE, "cuda:7"),
    ],
)
def test_bad_requests_to_learn_are_one_line_with_a_code_of_their_own(arguments, code, told, capsys):
    assert main(["--epochs", "1", *arguments]) == code
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1
