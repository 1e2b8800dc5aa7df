"""The environment of a run: what is read, what may be compared, and which cautions are given when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from suites.harness import cautions, gpu, system, watch
from suites.harness.cautions import ADVICE, JUDGES, Caution, Kind, Sampled, Snapshot
from suites.harness.environment import debug_builds, environment, repository, variables
from suites.harness.fingerprint import IDENTITY, VARIABLES_WITHOUT_SAY, differences, fingerprint
from suites.harness.gpu import COUNTED, Gpu, Reading
from suites.harness.system import HERE, CoreTime, Files, Frequency, Swapped, Throttling
from suites.harness.watch import Watch, is_timed_run, other_runs, snapshot

LINUX = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc")
MOUNT_V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
MOUNT_V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
CPU = "sys/devices/system/cpu"


def made(root: Path, files: dict[str, str]) -> Files:
    """A /proc and a /sys with these files alone."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return Files(root)


# Reading what the kernel shows


def test_what_cannot_be_read_is_none(tmp_path):
    nothing = Files(tmp_path)
    assert system.cpu_model(nothing) is None
    assert system.cores_quota(nothing) is None
    assert system.memory_limit_bytes(nothing) is None
    assert system.core_time(nothing, (0, 1)) is None
    assert system.swapped(nothing) is None
    assert system.throttling(nothing, (0,)) == Throttling(None, None, None, None)
    assert system.frequency(nothing, (0,)) == Frequency(None, None, None, None, None, None)


def test_numbers_that_are_none_are_not_guessed(tmp_path):
    files = made(tmp_path, {"good": "-12", "max": "max", "empty": "", "odd": "²", "table": "a 1\nb x\nc\nd 4"})
    assert [files.number(name) for name in ("good", "max", "empty", "odd", "absent")] == [-12, None, None, None, None]
    assert files.table("table") == {"a": 1, "d": 4}


def test_the_tightest_quota_and_limit_of_all_groups_around_count_in_version_2(tmp_path):
    group = "sys/fs/cgroup/user.slice/run"
    files = made(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/run",
            "proc/self/mountinfo": f"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n{MOUNT_V2}",
            f"{group}/cpu.max": "300000 100000",
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/cpu.max": "max 100000",
            f"{group}/memory.max": "2147483648",
            "sys/fs/cgroup/user.slice/memory.max": "max",
            f"{group}/cpu.stat": "usage_usec 7\nnr_periods 50\nnr_throttled 3\nthrottled_usec 1500000",
            "sys/fs/cgroup/user.slice/cpu.stat": "nr_throttled 2\nthrottled_usec 250000",
        },
    )
    assert system.control_groups(files, "cpu") == (group, "sys/fs/cgroup/user.slice", "sys/fs/cgroup")
    assert system.cores_quota(files) == 1.5
    assert system.memory_limit_bytes(files) == 2**31
    assert system.throttling(files, (0,)) == Throttling(5, 1.75, None, None)


def test_quota_and_limit_are_read_in_version_1_beside_an_idle_tree_of_version_2(tmp_path):
    files = made(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n0::/",
            "proc/self/mountinfo": f"{MOUNT_V2}\n{MOUNT_V1}\n{MOUNT_V1_MEMORY}",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000000",
            "sys/fs/cgroup/cpu.max": "10000 100000",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824",
        },
    )
    assert system.cores_quota(files) == 0.5
    assert system.memory_limit_bytes(files) == 2**30
    assert system.throttling(files, (0,)).quota_seconds == 2.5
    made(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"})
    assert system.memory_limit_bytes(files) is None


@pytest.mark.parametrize(
    ("seen", "mounted", "folders"),
    [
        ("/", "/", ("sys/fs/cgroup",)),
        ("/docker/abc/x", "/docker/abc", ("sys/fs/cgroup/x", "sys/fs/cgroup")),
        ("/../other", "/", ("sys/fs/cgroup",)),
        ("/elsewhere", "/docker/abc", ("sys/fs/cgroup",)),
    ],
)
def test_a_container_finds_its_control_group_by_what_is_mounted(tmp_path, seen, mounted, folders):
    mount = MOUNT_V2.replace(" / ", f" {mounted} ", 1)
    files = made(tmp_path, {"proc/self/cgroup": f"0::{seen}", "proc/self/mountinfo": mount})
    assert system.control_groups(files, "cpu") == folders


def test_governor_boost_and_clocks_are_those_of_the_allowed_cores(tmp_path):
    def cpufreq(core: int, governor: str, khz: int) -> dict[str, str]:
        folder = f"{CPU}/cpu{core}/cpufreq"
        now = {f"{folder}/scaling_governor": governor, f"{folder}/scaling_cur_freq": str(khz)}
        return now | {f"{folder}/scaling_min_freq": "800000", f"{folder}/scaling_max_freq": "4200000"}

    cores = cpufreq(0, "powersave", 1_200_000) | cpufreq(1, "performance", 3_900_000) | cpufreq(2, "schedutil", 1)
    files = made(tmp_path, {**cores, f"{CPU}/intel_pstate/no_turbo": "1"})
    found = system.frequency(files, (0, 1))
    assert found == Frequency(("performance", "powersave"), False, 1200, 3900, 800, 4200)
    assert system.frequency(made(tmp_path, {f"{CPU}/cpufreq/boost": "1"}), (0,)).boost is True


def test_without_cpufreq_the_clock_is_the_one_in_cpuinfo(tmp_path):
    cores = "\n\n".join(f"processor\t: {n}\nmodel name\t: Abacus 9\ncpu MHz\t\t: {2000.5 + n}" for n in range(3))
    files = made(tmp_path, {"proc/cpuinfo": cores})
    found = system.frequency(files, (1, 2))
    assert (found.lowest_mhz, found.highest_mhz, found.governors) == (2001.5, 2002.5, None)
    assert system.cpu_model(files) == "Abacus 9"


@LINUX
def test_time_at_work_and_stolen_time_are_those_of_the_allowed_cores(tmp_path):
    second = os.sysconf("SC_CLK_TCK")
    row = " ".join(str(part * second) for part in (1, 2, 4, 1000, 1000, 8, 16, 32, 500, 500))
    files = made(tmp_path, {"proc/stat": f"cpu  {row}\ncpu0 {row}\ncpu1 {row}\ncpu10 {row}\nintr 1 2 3"})
    assert system.core_time(files, (1,)) == CoreTime(31.0, 32.0)
    assert system.core_time(files, (0, 1)) == CoreTime(62.0, 64.0)
    assert system.core_time(files, (7,)) is None


def test_heat_is_counted_per_core_and_once_per_package(tmp_path):
    hot = {f"{CPU}/cpu{n}/thermal_throttle/core_throttle_count": str(n + 1) for n in range(3)}
    package = {f"{CPU}/cpu{n}/thermal_throttle/package_throttle_count": "7" for n in range(3)}
    assert system.throttling(made(tmp_path, hot | package), (0, 1)) == Throttling(None, None, 3, 7)


def test_pages_swapped_are_read(tmp_path):
    assert system.swapped(made(tmp_path, {"proc/vmstat": "pgpgin 9\npswpin 4\npswpout 5"})) == Swapped(4, 5)


def test_a_command_that_is_not_there_or_fails_or_hangs_tells_nothing(monkeypatch):
    assert system.ask(sys.executable, "-c", "print(' yes ')") == "yes"
    assert system.ask(sys.executable, "-c", "raise SystemExit(3)") is None
    assert system.ask("no-such-command-anywhere") is None
    monkeypatch.setattr(system, "ANSWER_SECONDS", 0.1)
    assert system.ask(sys.executable, "-c", "import time; time.sleep(20)") is None


# GPUs

UUID = "0a1b2c3d-0000-1111-2222-333344445555"
PLAIN = f"GPU-{UUID}, 580.95.05, 1024, 1410, 1980, 2619, 61, 402.51, 700.00\nGPU-other, 580.95.05, 0, 1, 2, 3, 4, 5, 6"


def driver(*, reasons_field: str | None, counters: str | None, mask: str = "0x0000000000000044"):
    """An nvidia-smi that knows some of the fields, and refuses a question with any other."""

    def answer(*command: str) -> str | None:
        assert command[0] == "nvidia-smi"
        assert command[2] == "--format=csv,noheader,nounits"
        fields = command[1].removeprefix("--query-gpu=uuid,").split(",")
        if tuple(fields) == gpu.FIELDS:
            return PLAIN
        if fields == [reasons_field]:
            return f"GPU-{UUID}, {mask}"
        if all(name.startswith("clocks_event_reasons_counters.") for name in fields) and counters:
            return f"GPU-{UUID}, {counters}"
        return None

    return answer


@pytest.fixture
def one_gpu(monkeypatch):
    """A torch that sees one GPU."""
    facts = SimpleNamespace(
        name="H100", uuid=UUID, major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)


def test_a_gpu_is_described_by_torch_and_its_driver(one_gpu):
    ask = driver(reasons_field="clocks_event_reasons.active", counters="2500000, 0, [N/A], 0, 0")
    (found,) = gpu.gpus(ask)
    assert (found.index, found.name, found.capability, found.multiprocessors) == (0, "H100", "9.0", 132)
    assert found.memory_bytes == 80 * 2**30
    assert found.reading == Reading(
        driver="580.95.05",
        memory_used_bytes=2**30,
        sm_mhz=1410,
        sm_max_mhz=1980,
        memory_mhz=2619,
        celsius=61,
        watts=402.51,
        watts_limit=700,
        reasons=("sw_power_cap", "hw_thermal_slowdown"),
        throttled_seconds={
            "sw_power_cap": 2.5,
            "sync_boost": 0.0,
            "hw_thermal_slowdown": 0.0,
            "hw_power_brake_slowdown": 0.0,
        },
    )


def test_older_drivers_are_asked_for_the_name_that_they_know(one_gpu):
    (found,) = gpu.gpus(driver(reasons_field="clocks_throttle_reasons.active", counters=None, mask="0x1"))
    assert found.reading.reasons == ("gpu_idle",)
    assert found.reading.throttled_seconds is None


def test_what_a_driver_does_not_tell_is_none(one_gpu):
    (found,) = gpu.gpus(driver(reasons_field=None, counters=None))
    assert found.reading.reasons is None
    assert found.reading.watts == 402.51
    (without,) = gpu.gpus(lambda *command: None)
    assert without.name == "H100"
    assert without.reading is None
    assert gpu.reasons("[N/A]") is None
    assert gpu.reasons("0x0") == ()


def test_without_cuda_there_are_no_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.gpus(lambda *command: pytest.fail("nobody should be asked")) is None


def test_the_reasons_that_slow_a_gpu_are_reasons_that_a_mask_can_give():
    assert set(gpu.THROTTLES) < set(gpu.REASONS.values())
    assert set(gpu.REASONS.values()) - set(gpu.THROTTLES) == {
        "gpu_idle",
        "applications_clocks_setting",
        "display_clock_setting",
    }


def test_an_environment_with_a_gpu_names_it_and_its_driver(one_gpu, monkeypatch):
    ask = driver(reasons_field="clocks_event_reasons.active", counters=None)
    monkeypatch.setattr("suites.harness.environment.gpus", lambda: gpu.gpus(ask))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    found = environment("quick")
    assert found["gpu"] == "H100"
    assert found["gpus"][0]["reading"]["celsius"] == 61
    assert found["versions"]["gpu_driver"] == "580.95.05"


# The environment


def test_this_machine_can_be_described_and_stored():
    found = environment("standard")
    assert json.loads(json.dumps(found)) == found
    assert found["effort"] == "standard"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"]["affinity"] == len(system.allowed_cores()) >= found["cores_allowed"] > 0
    assert found["memory_bytes"] >= found["memory"]["available_bytes"] > 0
    assert found["versions"]["pytest"] == pytest.__version__
    assert found["versions"]["torch_git"] == torch.version.git_version
    assert any(library["num_threads"] for library in found["libraries"])
    assert (found["gpu"] is None) == (found["gpus"] is None) == (not torch.cuda.is_available())


def test_a_machine_without_proc_and_sys_can_be_described_too(tmp_path):
    found = environment("quick", Files(tmp_path))
    assert json.loads(json.dumps(found)) == found
    assert found["frequency"]["governors"] is None
    assert found["memory"]["limit_bytes"] is None
    assert found["cores"]["quota"] is None


def test_a_quota_below_the_number_of_cores_is_what_is_allowed(tmp_path):
    group = {"proc/self/cgroup": "0::/", "proc/self/mountinfo": MOUNT_V2}
    for quota, allowed in (("50000", 0.5), ("100000", 1), ("99900000", len(system.allowed_cores()))):
        found = environment("quick", made(tmp_path, {**group, "sys/fs/cgroup/cpu.max": f"{quota} 100000"}))
        assert (found["cores_allowed"], type(found["cores_allowed"])) == (allowed, type(allowed))


def test_only_variables_that_matter_are_stored():
    environ = {"OMP_PROC_BIND": "true", "HOME": "/root", "LD_PRELOAD": "x.so", "MALLOC_ARENA_MAX": "1", "SECRET": "s"}
    assert variables(environ) == {"LD_PRELOAD": "x.so", "MALLOC_ARENA_MAX": "1", "OMP_PROC_BIND": "true"}


def test_debug_builds_are_found(monkeypatch):
    monkeypatch.setattr(torch.version, "debug", True)
    assert "torch" in debug_builds()
    monkeypatch.setattr(torch.version, "debug", False)
    assert "torch" not in debug_builds()
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: int(name == "Py_DEBUG"))
    assert "python" in debug_builds()


def test_a_repository_is_dirty_when_what_is_measured_differs_from_the_commit(tmp_path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert repository(tmp_path) == (None, None)
    git("init", "--quiet")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "tape.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "0001.json").write_text("{}")
    assert repository(tmp_path) == (commit, False)
    assert repository(tmp_path / "engines") == (None, None)
    (tmp_path / "engines" / "new.py").write_text("")
    assert repository(tmp_path) == (commit, True)
    assert repository(tmp_path, lambda *command: None) == (None, None)


# Whether two runs may be compared


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """An environment, as stored, in which every part is there."""
    return environment("quick") | {"variables": {"KMP_BLOCKTIME": "1", "OMP_NUM_THREADS": "2"}}


def leaves(facts: dict[str, Any]) -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            yield from (f"{key}.{inner}" for inner in leaves(value))
        else:
            yield key


FREE = {
    *("fingerprint", "effort", "commit", "dirty", "load_1min", "load_5min", "load_15min", "memory_bytes"),
    *("cores.machine", "cores.affinity", "cores.quota", "libraries", "gpus", "variables.OMP_NUM_THREADS"),
    *(f"frequency.{name}" for name in ("lowest_mhz", "highest_mhz", "min_mhz", "max_mhz")),
    *(f"memory.{name}" for name in ("available_bytes", "limit_bytes", "swap_total_bytes", "swap_used_bytes")),
    *(f"versions.{name}" for name in ("kernel", "openmp", "scipy", "pandas", "psutil", "pytest", "pytest_benchmark")),
    *(f"versions.{name}" for name in ("memray", "threadpoolctl", "triton")),
}
"""What may differ between two runs that are compared."""


def altered(facts: dict[str, Any], path: str) -> dict[str, Any]:
    outer, _, inner = path.partition(".")
    return facts | {outer: altered(facts[outer], inner) if inner else "something else"}


def test_the_fingerprint_changes_with_what_must_be_equal_and_with_nothing_else(stored):
    assert differences(stored, stored) == []
    paths = list(leaves(stored))
    assert {*IDENTITY, "variables.KMP_BLOCKTIME"} == set(paths) - FREE
    for path in paths:
        other = altered(stored, path)
        counts = path not in FREE
        assert differences(stored, other) == ([path] if counts else []), path
        assert (fingerprint(stored) != fingerprint(other)) == counts, path


def test_effort_does_not_change_the_fingerprint_of_a_machine_and_threads_do():
    first, again = environment("quick"), environment("full")
    assert first["fingerprint"] == again["fingerprint"] == fingerprint(first)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        other = environment("quick")
    finally:
        torch.set_num_threads(before)
    assert other["fingerprint"] != first["fingerprint"]
    assert differences(first, other) == ["threads"]


def test_a_variable_that_one_run_had_and_the_other_had_not_is_a_difference(stored):
    bare = stored | {"variables": {}}
    assert differences(stored, bare) == differences(bare, stored) == ["variables.KMP_BLOCKTIME"]
    silent = stored | {"variables": stored["variables"] | dict.fromkeys(VARIABLES_WITHOUT_SAY, "x")}
    assert differences(stored, silent) == []


def test_an_older_file_that_lacks_a_field_is_not_taken_to_be_equal(stored):
    older = {"cpu": stored["cpu"], "torch": stored["torch"], "threads": stored["threads"]}
    assert "versions.torch_git" in differences(older, stored)
    assert "threads" not in differences(older, stored)


# Cautions

READING = Reading("580", 0, 1400.0, 1980.0, 2619.0, 61.0, 402.0, 700.0, ("gpu_idle",), dict.fromkeys(COUNTED, 5.0))
GPU = Gpu(0, "H100", "GPU-1", "9.0", 132, 80 * 2**30, READING)
BEFORE = Snapshot(
    seconds=100.0,
    cores=2,
    core_time=CoreTime(busy_seconds=1000.0, stolen_seconds=10.0),
    own_seconds=50.0,
    other_runs=(),
    throttling=Throttling(quota_periods=4, quota_seconds=1.0, core_events=6, package_events=7),
    swapped=Swapped(pages_in=8, pages_out=9),
    frequency=Frequency(("performance",), False, 2600.0, 2610.0, 800.0, 2600.0),
    debug_builds=(),
    gpus=(GPU,),
)
QUIET = replace(BEFORE, seconds=110.0, core_time=CoreTime(1018.5, 10.05), own_seconds=68.0)
"""Ten seconds later: 18.5 s of work on 2 cores, 18 of them our own; 0.05 s stolen."""


def gpu_with(**reading: Any) -> tuple[Gpu, ...]:
    return (replace(GPU, reading=replace(READING, **reading)),)


SEEN: list[tuple[Kind, dict[str, Any], str]] = [
    (
        Kind.OTHER_LOAD,
        {"core_time": CoreTime(1019.1, 10.05)},
        "other processes worked for 1.1 s of CPU time while 2 cores ran for 10.0 s: 5.5% of their time, 5% is allowed",
    ),
    (
        Kind.STOLEN_TIME,
        {"core_time": CoreTime(1018.5, 10.3)},
        "cores with work were not run for 0.3 s of CPU time while 2 cores ran for 10.0 s: "
        "1.5% of their time, 1% is allowed",
    ),
    (Kind.ANOTHER_RUN, {"other_runs": (4711, 12)}, "these suites were also run by process 12, 4711"),
    (
        Kind.QUOTA,
        {"throttling": Throttling(41, 2.25, 6, 7)},
        "the CPU quota of the control group was used up 37 times, for 1.25 s in all",
    ),
    (Kind.HEAT, {"throttling": Throttling(4, 1.0, 8, 10)}, "too hot: cores 2 times, the whole processor 3 times"),
    (
        Kind.GPU_THROTTLED,
        {"gpus": gpu_with(throttled_seconds=READING.throttled_seconds | {"sw_power_cap": 6.5})},
        "GPU 0 (H100) was held back by sw_power_cap for 1.50 s",
    ),
    (
        Kind.GPU_THROTTLED,
        {"gpus": gpu_with(reasons=("hw_slowdown",), throttled_seconds=None)},
        "GPU 0 (H100) was held back by hw_slowdown when looked at (61.0 °C, 402.0 W, 1400.0 MHz)",
    ),
    (Kind.SWAP, {"swapped": Swapped(10, 12)}, "2 pages came back from swap and 3 went there"),
    (Kind.DEBUG_BUILD, {"debug_builds": ("torch", "python")}, "2 found: python, torch"),
    (
        Kind.FREQUENCY_SCALING,
        {"frequency": replace(BEFORE.frequency, governors=("performance", "powersave"))},
        "the governor is powersave",
    ),
    (
        Kind.FREQUENCY_SCALING,
        {"frequency": replace(BEFORE.frequency, highest_mhz=3900.0)},
        "clocks lay between 2600 and 3900 MHz, 50% apart, 5% is allowed",
    ),
]
"""What is different from a quiet run, and what the one caution that follows says."""


@pytest.mark.parametrize(("kind", "after", "seen"), SEEN, ids=[kind for kind, _, _ in SEEN])
def test_each_caution_comes_alone_with_what_was_seen_and_what_to_do(kind, after, seen):
    found = cautions.cautions(BEFORE, replace(QUIET, **after))
    assert found == (Caution(kind, seen, ADVICE[kind]),)
    assert str(found[0]) == f"{kind}: {seen}; {ADVICE[kind]}"


def test_a_quiet_run_gets_no_caution():
    assert cautions.cautions(BEFORE, QUIET, [Sampled("cell", "20 rounds", 0.02, 0.02)]) == ()


def test_every_kind_of_caution_has_advice_and_is_given_by_someone():
    assert set(ADVICE) == set(Kind)
    assert {kind for kind, _, _ in SEEN} | {Kind.TOO_FEW_SAMPLES} == set(Kind)
    assert len(JUDGES) == len(Kind) - 1


def test_several_cautions_stand_side_by_side():
    after = replace(QUIET, swapped=Swapped(9, 9), debug_builds=("torch",))
    found = cautions.cautions(BEFORE, after, [Sampled("cell", "20 rounds", 0.03, 0.02)])
    assert [caution.kind for caution in found] == [Kind.SWAP, Kind.DEBUG_BUILD, Kind.TOO_FEW_SAMPLES]


def test_what_was_there_before_the_run_is_held_against_it_where_it_can_last():
    assert cautions.another_run(replace(BEFORE, other_runs=(7,)), QUIET).seen.endswith("process 7")
    hot = replace(BEFORE, gpus=gpu_with(reasons=("hw_thermal_slowdown",)))
    assert "hw_thermal_slowdown" in cautions.gpu_throttled(hot, QUIET).seen
    slow = replace(BEFORE, frequency=replace(BEFORE.frequency, lowest_mhz=1300.0))
    assert "between 1300 and 2610 MHz" in cautions.frequency_scaling(slow, QUIET).seen


def test_what_a_system_does_not_tell_raises_no_caution():
    silent = {
        "core_time": None,
        "throttling": Throttling(None, None, None, None),
        "swapped": None,
        "frequency": Frequency(None, None, None, None, None, None),
        "gpus": None,
    }
    for before, after in ((BEFORE, replace(QUIET, **silent)), (replace(BEFORE, **silent), QUIET)):
        assert cautions.cautions(before, after) == ()
    assert cautions.cautions(replace(BEFORE, gpus=(replace(GPU, reading=None),)), QUIET) == ()


def test_a_few_ticks_of_a_short_run_are_no_load():
    moment = replace(QUIET, seconds=100.01, core_time=CoreTime(1000.09, 10.0), own_seconds=50.0)
    assert cautions.cautions(BEFORE, moment) == ()
    assert cautions.cautions(BEFORE, replace(moment, seconds=100.0)) == ()


def test_the_cells_with_the_widest_intervals_are_named_and_the_others_counted():
    cells = [Sampled(f"cell{n}", f"{n} launches", n / 100, 0.05) for n in (4, 5, 9, 2, 6, 8, 7)]
    found = cautions.too_few_samples(cells)
    assert found.seen == (
        "intervals wider than the 5% wanted: cell9: 9.0% after 9 launches, cell8: 8.0% after 8 launches, "
        "cell7: 7.0% after 7 launches, and 1 more cells"
    )
    assert "--effort standard" in found.advice
    assert cautions.too_few_samples([]) is None


# Watching this machine


@contextmanager
def stranger(code: str, *arguments: str) -> Iterator[int]:
    """A Python process that is not below this one: its parent has ended. Gives its id, and ends it."""
    start = (
        "import subprocess, sys; null = subprocess.DEVNULL;"
        "print(subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=null, stderr=null, start_new_session=True).pid)"
    )
    command = [sys.executable, "-c", start, "-c", code, *arguments]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    process = psutil.Process(pid)
    try:
        yield pid
    finally:
        process.kill()
        psutil.wait_procs([process], timeout=10)


SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


@LINUX
def test_work_outside_our_own_processes_is_seen():
    core = system.allowed_cores()[0]
    watching = Watch(HERE, (core,), snapshot(HERE, (core,)))
    with stranger(SPIN, str(core)) as pid:
        while psutil.Process(pid).cpu_times().user < 0.5:
            time.sleep(0.02)
        found = [caution for caution in watching.finish() if caution.kind is Kind.OTHER_LOAD]
    assert len(found) == 1
    assert "while 1 core ran for" in found[0].seen


@LINUX
def test_work_of_a_child_is_our_own_while_it_runs_and_after_it_has_ended():
    before = system.own_seconds()
    child = subprocess.Popen([sys.executable, "-c", SPIN, str(system.allowed_cores()[0])])
    while psutil.Process(child.pid).cpu_times().user < 0.3:
        time.sleep(0.02)
    running = system.own_seconds()
    child.kill()
    child.wait()
    # the system counts in hundredths, which floats add and subtract inexactly
    assert round(running - before, 2) >= 0.3
    assert round(system.own_seconds() - running, 2) >= 0


def test_another_timed_run_is_seen_by_its_process():
    words = ("pytest", "suites", "--benchmark-only")
    with stranger("import time; time.sleep(60)", *words) as pid:
        deadline = time.monotonic() + 10
        while pid not in other_runs() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pid in other_runs()
        assert cautions.another_run(snapshot(HERE, (0,)), QUIET) is not None
    assert pid not in other_runs()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words]) as own:
        found = other_runs()
        own.kill()
    assert own.pid not in found


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        (".venv/bin/python -m pytest suites --benchmark-only -q", True),
        ("/usr/bin/python3.12 /home/x/.venv/bin/pytest /home/x/suites/test_step.py::test_step --benchmark-only", True),
        ("python -m pytest suites", False),
        ("python -m pytest tests --benchmark-only", False),
        ("timeout 60 python -m pytest suites --benchmark-only", False),
        ("vi suites/conftest.py", False),
        ("", False),
    ],
)
def test_timed_runs_are_told_from_what_starts_them_and_from_other_tests(command, is_one):
    assert is_timed_run(command.split()) is is_one


def test_a_watch_gives_the_cautions_of_what_it_saw(monkeypatch):
    seen = iter([BEFORE, replace(QUIET, swapped=Swapped(8, 10))])
    monkeypatch.setattr(watch, "snapshot", lambda files, cores: next(seen))
    found = Watch.start().finish([Sampled("cell", "20 rounds", 0.03, 0.02)])
    assert [caution.kind for caution in found] == [Kind.SWAP, Kind.TOO_FEW_SAMPLES]


def test_a_machine_without_proc_and_sys_can_be_watched(tmp_path):
    found = Watch.start(Files(tmp_path)).finish()
    assert {caution.kind for caution in found} <= {Kind.ANOTHER_RUN, Kind.DEBUG_BUILD, Kind.GPU_THROTTLED}
