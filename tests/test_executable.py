"""Executables: the same bits in another process, nothing run from the file, and a clear word for every wrong one."""

from __future__ import annotations

import builtins
import hashlib
import json
import math
import pickle
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import Executable, ExecutableError, differentiate, trace, update
from engines.graph.stored import CONSTANTS, DIGEST, GRAPH
from engines.op import describe
from engines.optim import Sgd
from engines.value import EngineError, Spec
from tests.programs import array, assert_same_bits, at, on_graph, random_program, spec, tensor, traced

ROOT = Path(__file__).parent.parent
Model = Callable[..., Any]


def built(model: Model, *specs: Spec) -> Executable:
    return Executable.build(traced(model, *specs))


def round_trip(executable: Executable, folder: Path) -> Executable:
    executable.save(folder / "saved")
    return Executable.load(folder / "saved")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small executable on disk."""
    path = tmp_path / "model.tvg"
    built(lambda ops, x: ops.relu(x @ array(3, 2)) * 2.0, spec(4, 3)).save(path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same file with its graph changed and its digest made to fit, as someone with bad intentions would."""
    with zipfile.ZipFile(path) as file:
        document, constants = json.loads(file.read(GRAPH)), file.read(CONSTANTS)
    change(document)
    return written(path, json.dumps(document).encode(), constants)


def written(path: Path, document: bytes, constants: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(GRAPH, document)
        file.writestr(CONSTANTS, constants)
        file.writestr(DIGEST, hashlib.sha256(document + constants).hexdigest())
    return path


# There and back

ELSEWHERE = """
import importlib, pathlib, sys
import numpy as np, torch
from engines.graph import Executable

def forbidden(*_, **__):
    raise SystemExit("traced")

tracing, compiling = map(importlib.import_module, ("engines.graph.trace", "engines.graph.compile"))
tracing.trace = compiling.trace = forbidden
tracing.Builder.add = tracing.Builder.__init__ = tracing.infer = forbidden
for name in vars(tracing.OPS):
    setattr(tracing.OPS, name, forbidden)

folder = sys.argv[1]
executable = Executable.load(pathlib.Path(folder) / "saved")
inputs = np.load(folder + "/inputs.npz")
outputs = executable(*(torch.from_numpy(inputs[name]) for name in inputs.files))
np.savez(folder + "/outputs.npz", *(out.numpy() for out in outputs))
"""


def run_elsewhere(folder: Path, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of `folder`/saved in a process that cannot trace."""
    np.savez(folder / "inputs.npz", *(x.numpy() for x in inputs))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as outputs:
        return [torch.from_numpy(outputs[name]) for name in outputs.files]


def training_step() -> tuple[Executable, list[torch.Tensor]]:
    """A step with convolution, dropout, labels and constants, and its inputs."""

    def loss(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        planes = ops.max_pool2d(ops.relu(ops.conv2d(s["x"], s["w"], s["b"])), kernel_size=2)
        planes = ops.dropout(ops.flatten(planes, start_dim=1), s["key"], rate=0.5) * array(8, seed=5)
        return {"loss": ops.cross_entropy(planes, s["label"])}

    integers = spec(3, dtype=torch.int64)
    inputs = {
        "w": spec(2, 1, 3, 3),
        "b": spec(2),
        "x": spec(3, 1, 6, 6),
        "label": integers,
        "key": integers._replace(shape=()),
    }
    graph = update(differentiate(trace(loss, inputs), "loss", ["w", "b"]), Sgd(lr=0.1, momentum=0.9), ["w", "b"])
    state = [tensor(2, 1, 3, 3, seed=6), tensor(2, seed=7)]
    weights = [tensor(2, 1, 3, 3), tensor(2, seed=1), tensor(3, 1, 6, 6, seed=2)]
    return Executable.build(graph), [*weights, torch.tensor([1, 7, 0]), torch.tensor(99), *state]


def test_a_saved_step_gives_the_same_bits_in_another_process_without_tracing(tmp_path: Path) -> None:
    step, inputs = training_step()
    step.save(tmp_path / "saved")
    found = run_elsewhere(tmp_path, inputs)
    assert_same_bits(found, step(*inputs))


@pytest.mark.parametrize("seed", range(10))
def test_random_programs_come_back_as_they_were(tmp_path: Path, seed: int) -> None:
    program = random_program(seed)
    executable = on_graph(program)
    again = round_trip(executable, tmp_path)
    assert str(again.graph) == str(executable.graph)
    assert again.source == executable.source
    assert_same_bits(again(*program.inputs()), executable(*program.inputs()))


CONSTANTS_OF_ALL_KINDS = [
    torch.tensor([1.5, -0.0, math.inf, math.nan]),
    torch.tensor([1.5, -0.0, math.nan], dtype=torch.float64),
    torch.tensor([1.5, -0.0, math.nan], dtype=torch.float16),
    torch.tensor([1.5, -0.0, math.nan], dtype=torch.bfloat16),
    torch.tensor([-1, 2**62]),
    torch.tensor([-1, 2**30], dtype=torch.int32),
    torch.tensor([-1, 2**14], dtype=torch.int16),
    torch.tensor([-1, 127], dtype=torch.int8),
    torch.tensor([0, 255], dtype=torch.uint8),
    torch.tensor([[True, False]]),
    torch.tensor(2.5),
    torch.tensor(7),
    torch.tensor(True),
    torch.zeros(0, 3),
    torch.arange(6.0).reshape(2, 3).T,
    torch.tensor(1.0).expand(2, 2),
]


def test_constants_of_all_kinds_come_back_to_the_bit(tmp_path: Path) -> None:
    def model(ops: Any, s: Mapping[str, Any]) -> Mapping[str, Any]:
        return {f"out{i}": ops.where(s["x"] > 0.0, c, c) for i, c in enumerate(CONSTANTS_OF_ALL_KINDS)}

    graph = trace(model, {"x": spec()})
    again = round_trip(Executable.build(graph), tmp_path)
    assert_same_bits(list(again.graph.constants.values()), list(graph.constants.values()))
    assert_same_bits(again(torch.tensor(0.0)), [c.contiguous() for c in CONSTANTS_OF_ALL_KINDS])


def test_numbers_of_all_kinds_come_back_as_they_were(tmp_path: Path) -> None:
    numbers = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1, 1.0, 0.1, 1e-320, 2**40, True]

    def model(ops: Any, x: Any) -> Any:
        return ops.concat([ops.full_like(x, value=n) for n in numbers] + [x * n for n in numbers])

    graph = traced(model, spec(2))
    again = round_trip(Executable.build(graph), tmp_path)
    assert [repr(n.attrs) for n in again.graph.nodes] == [repr(n.attrs) for n in graph.nodes]
    assert [repr(n.inputs[1]) for n in again.graph.nodes[11:-1]] == list(map(repr, numbers))
    assert_same_bits(again(tensor(2)), Executable.build(graph)(tensor(2)))


def test_a_graph_without_nodes_comes_back(tmp_path: Path) -> None:
    again = round_trip(built(lambda ops, x: x, spec(3)), tmp_path)
    assert_same_bits(again(tensor(3)), [tensor(3)])


def test_saving_over_a_file_replaces_it_and_leaves_nothing_else(saved: Path) -> None:
    built(lambda ops, x: -x, spec(2)).save(saved)
    assert_same_bits(Executable.load(saved)(tensor(2)), [-tensor(2)])
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_save_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="disk full"):
        built(lambda ops, x: -x, spec(2)).save(saved)
    assert saved.read_bytes() == before


# Nothing from the file is run


CODE = '__import__("pytest").exit("code from the file was run")'

MALICIOUS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the name of an op": lambda g: g["nodes"][1].__setitem__(0, CODE),
    "an op of Python's": lambda g: g["nodes"][1].__setitem__(0, "eval"),
    "an attribute's name": lambda g: g["nodes"][1][2].__setitem__(CODE, 1),
    "an operand": lambda g: g["nodes"][0][1].__setitem__(1, CODE),
    "an operand in a list": lambda g: g["nodes"][0][1].__setitem__(1, [CODE]),
    "a dtype": lambda g: g["specs"][0].__setitem__(1, CODE),
    "a device": lambda g: g["specs"][0].__setitem__(2, CODE),
    "a line": lambda g: g["nodes"][0][4].__setitem__(1, CODE),
    "a shape": lambda g: g["specs"][-1].__setitem__(0, CODE),
}

INERT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a file's name": lambda g: [n[4].__setitem__(0, f"model.py\n    {CODE}") for n in g["nodes"]],
    "a file's name, with a carriage return": lambda g: g["nodes"][0][4].__setitem__(0, f"model.py\r    {CODE}"),
    "the name of the graph": lambda g: g.__setitem__("name", f'"\n{CODE}'),
    "the name of an input": lambda g: g.__setitem__("inputs", [f"x=0):\n    {CODE}\ndef g("]),
    "the name of an output": lambda g: g.__setitem__("outputs", {f"a)\n{CODE}": 4}),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_code_in_place_of_data_is_refused(saved: Path, name: str) -> None:
    path = rewritten(saved, lambda document: MALICIOUS[name](document["graph"]))
    with pytest.raises(ExecutableError, match="not a graph that can run here"):
        Executable.load(path)


@pytest.mark.parametrize("name", INERT)
def test_code_in_place_of_a_name_is_a_name(saved: Path, name: str) -> None:
    expected = Executable.load(saved)(tensor(4, 3))
    path = rewritten(saved, lambda document: INERT[name](document["graph"]))
    assert_same_bits(Executable.load(path)(tensor(4, 3)), expected)


def test_code_in_an_attribute_is_text(saved: Path) -> None:
    built(lambda ops, x: ops.cast(x, dtype="float64"), spec(2)).save(saved)
    path = rewritten(saved, lambda document: document["graph"]["nodes"][0][2].__setitem__("dtype", CODE))
    executable = Executable.load(path)
    assert f"dtype={CODE!r}" in executable.source
    with pytest.raises(EngineError, match="cast"):
        executable(tensor(2))


def test_neither_pickle_nor_eval_is_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("used")

    for owner, name in (
        (pickle, "loads"),
        (pickle, "load"),
        (pickle, "Unpickler"),
        (builtins, "eval"),
        (torch, "load"),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    Executable.load(saved)(tensor(4, 3))


# Files that are not what they seem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match=r"nowhere\.tvg: no such file"):
        Executable.load(tmp_path / "nowhere.tvg")


def test_a_folder_is_no_executable(tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match=tmp_path.name):
        Executable.load(tmp_path)


def test_a_file_cut_short_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(ExecutableError, match=r"model\.tvg: "):
            Executable.load(saved)


def test_a_file_with_any_one_byte_altered_is_refused_or_the_same(saved: Path) -> None:
    whole, same = saved.read_bytes(), 0
    expected = Executable.load(saved)
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        saved.write_bytes(altered)
        try:
            found = Executable.load(saved)
        except ExecutableError:
            continue
        same += 1
        assert (found.source, str(found.graph)) == (expected.source, str(expected.graph))
    assert same < len(whole) / 3  # dates and the like


def test_an_altered_constant_is_noticed(saved: Path) -> None:
    whole = bytearray(saved.read_bytes())
    constant = array(3, 2).tobytes()
    whole[whole.find(constant) + 2] ^= 1
    saved.write_bytes(whole)
    with pytest.raises(ExecutableError, match=r"model\.tvg: "):
        Executable.load(saved)


def test_constants_of_another_file_are_noticed(saved: Path) -> None:
    with zipfile.ZipFile(saved) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts[CONSTANTS] = array(3, 2, seed=1).tobytes()
    with zipfile.ZipFile(saved, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(ExecutableError, match=r"model\.tvg: altered: its contents have sha256"):
        Executable.load(saved)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04N.", bytes(range(256)) * 20])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ExecutableError, match="foreign: not an executable"):
        Executable.load(path)


def test_a_foreign_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "hello")
    with pytest.raises(ExecutableError, match=r"foreign\.zip: not an executable"):
        Executable.load(path)


def test_what_torch_saves_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(3)}, path)
    with pytest.raises(ExecutableError, match=r"weights\.pt: not an executable"):
        Executable.load(path)


@pytest.mark.parametrize(
    "document", [b"", b"nothing", b"[]", b"3", b"{}", b"\xff", b'{"format": "tape-vs-graph executable"}']
)
def test_a_document_that_is_none_is_refused(tmp_path: Path, document: bytes) -> None:
    with pytest.raises(ExecutableError, match="odd: not an executable"):
        Executable.load(written(tmp_path / "odd", document))


@pytest.mark.parametrize(("key", "value"), [("version", 1), ("format", "onnx"), ("version", None)])
def test_another_version_or_format_is_refused(saved: Path, key: str, value: Any) -> None:
    path = rewritten(saved, lambda document: document.__setitem__(key, value))
    with pytest.raises(ExecutableError, match=rf"model\.tvg: found .*{value!r}.*, expected .*'version': 2"):
        Executable.load(path)


ELSE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another torch": (lambda d: d.update(torch="1.0.0"), r"another torch: found '1\.0\.0', expected '2\.\d+\.\d+"),
    "no torch": (lambda d: d.pop("torch"), r"another torch: found None, expected '2"),
    "a processor that can do more": (
        lambda d: d["processor"].__setitem__(-1, d["processor"][-1] + " avx1024"),
        "another processor: found 'avx1024', expected ''",
    ),
    "a processor of another kind": (
        lambda d: d["processor"].__setitem__(0, "z80"),
        f"another processor: found 'z80', expected {platform.machine()!r}",
    ),
    "no processor": (lambda d: d["processor"].clear(), f"found 'nothing', expected {platform.machine()!r}"),
    "other C": (lambda d: d.update(code="0" * 64), "another version: its regions become C of sha256"),
    "no C": (lambda d: d.pop("code"), "another version: its regions become C of sha256"),
}


@pytest.mark.parametrize("name", ELSE)
def test_a_file_made_elsewhere_is_refused_with_what_differs(saved: Path, name: str) -> None:
    change, message = ELSE[name]
    with pytest.raises(ExecutableError, match=rf"model\.tvg: made .*{message}.*; build it again"):
        Executable.load(rewritten(saved, change))


def edit(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Set what stands at `path` in the graph."""

    def change(graph: Any) -> None:
        for step in path[:-1]:
            graph = graph[step]
        graph[path[-1]] = to

    return change


UNSOUND: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown op": edit("nodes", 0, 0, to="matmull"),
    "a value used before it is defined": edit("nodes", 0, 1, 0, to=[3]),
    "a value that is not there": edit("nodes", 0, 1, 0, to=[99]),
    "an output that nobody defines": edit("outputs", "out", to=99),
    "a value defined twice": lambda g: (edit("nodes", 1, 3, to=[2])(g), edit("outputs", "out", to=2)(g)),
    "an input defined again": lambda g: (edit("nodes", 2, 3, to=[0])(g), edit("outputs", "out", to=0)(g)),
    "an input too many": edit("nodes", 1, 1, to=[[2], [2]]),
    "an output too many": edit("nodes", 1, 3, to=[3, 4]),
    "an attribute too many": edit("nodes", 0, 2, to={"dim": 0}),
    "an attribute that is a mapping": edit("nodes", 0, 2, to={"dim": {}}),
    "a constant out of the file": edit("constants", to=[1000]),
    "a constant before the file": edit("constants", to=[-1]),
    "a constant that is larger": edit("specs", 1, 0, to=[300, 200]),
    "a negative size": edit("specs", 1, 0, to=[-3, 2]),
    "an unknown dtype": edit("specs", 0, 1, to="float23"),
    "an unknown device": edit("specs", 0, 2, to="abacus"),
    "an unknown device on the way": edit("specs", 2, 2, to="abacus"),
    "inputs twice": edit("inputs", to=["x", "x"]),
    "more inputs than values": edit("inputs", to=list("abcdefgh")),
    "no nodes": edit("nodes", to=None),
    "a node that is none": edit("nodes", 0, to=["matmul"]),
    "outputs that are a list": edit("outputs", to=[1]),
    "a deep attribute": edit("nodes", 0, 0, to=[[[]]]),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_graph_that_makes_no_sense_is_refused(saved: Path, name: str) -> None:
    path = rewritten(saved, lambda document: UNSOUND[name](document["graph"]))
    with pytest.raises(ExecutableError, match=r"model\.tvg: not a graph that can run here"):
        Executable.load(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_executable_for_a_device_that_is_not_here_is_refused(saved: Path) -> None:
    def move(document: dict[str, Any]) -> None:
        for stored in document["graph"]["specs"]:
            stored[2] = "cuda:0"

    with pytest.raises(ExecutableError, match=r"model\.tvg: not a graph that can run here.*(CUDA|NVIDIA)"):
        Executable.load(rewritten(saved, move))


# Calling


WRONG: list[tuple[list[Any], str]] = [
    ([], "takes 2 inputs, found 0"),
    ([tensor(2, 3)], "takes 2 inputs, found 1"),
    ([tensor(2, 3)] * 3, "takes 2 inputs, found 3"),
    ([tensor(2, 4), tensor(3)], r"input 'x' is compiled for f32\[2,3\], found f32\[2,4\]"),
    ([tensor(2, 3), tensor(3, dtype=np.float64)], r"input 'y' is compiled for f32\[3\], found f64\[3\]"),
    ([tensor(2, 3), torch.tensor([1, 2, 3])], r"input 'y' is compiled for f32\[3\], found i64\[3\]"),
    ([tensor(2, 3), torch.empty(3, device="meta")], r"input 'y' is compiled for f32\[3\], found f32\[3\]@meta"),
    ([array(2, 3), tensor(3)], r"input 'x' is compiled for f32\[2,3\]"),
    ([tensor(2, 3), 3.0], r"input 'y' is compiled for f32\[3\], found 3.0"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_inputs_are_named(inputs: list[Any], message: str) -> None:
    executable = built(lambda ops, x, y: x + y, spec(2, 3), spec(3))
    with pytest.raises(EngineError, match=message):
        executable(*inputs)


def test_inputs_by_name() -> None:
    executable = built(lambda ops, x, y: x - y, spec(3), spec(3))
    x, y = tensor(3), tensor(3, seed=1)
    assert_same_bits([executable.run_named({"y": y, "x": x})["out"]], [x - y])
    with pytest.raises(EngineError, match=r"input 'y' is missing, found \['x'\]"):
        executable.run_named({"x": x})


def test_what_a_kernel_refuses_at_run_time_names_the_line_of_the_model() -> None:
    def model(ops: Any, x: Any, y: Any) -> Any:
        rows = ops.embedding(x, y)  # the look-up
        return ops.relu(rows)

    executable = built(model, spec(3, 2), spec(2, dtype=torch.int64))
    with pytest.raises(EngineError, match=f"embedding: .* from {at('the look-up')}"):
        executable(tensor(3, 2), torch.tensor([0, 3]))


def test_torch_s_autograd_sees_nothing() -> None:
    executable = built(lambda ops, x: x * 2.0, spec(3))
    (out,) = executable(tensor(3).requires_grad_())
    assert not out.requires_grad
    assert describe(out) == "f32[3]"
