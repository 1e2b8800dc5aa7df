"""Max-pooling in C, and the gradients of a convolution that feeds one.

The gradient behind a max-pool is 0 but for one element of each window. So both gradients of the convolution go over
those elements alone: with a window of 2 by 2 a quarter of what a dense one does, and less where relu or dropout made
zeros.

    weight[o, ky, kx, :]       += g * x[n, y + ky, x + kx, :]         for each element g of channel o at (n, y, x)
    x[n, y + ky, x + kx, :]    += g * weight[o, ky, kx, :]

Inside, channels lie innermost, in vectors; each image is brought into that order and back in a thread's own
memory. Each thread adds up a weight's gradient of its own; these are added in the threads' order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch

from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.loops import comment
from engines.graph.lower.nest import PARALLEL_WORK
from engines.graph.lower.piece import Pieces
from engines.graph.lower.registers import registers
from engines.graph.lower.turning import turn
from engines.graph.pooled import BACK, POOL, are_sparse_gradients, is_small
from engines.value import Spec

MOST_TAPS = 28
"""Elements of a window that are worth it: with few registers they are gone through in two parts."""

SPARE = 4
"""Registers for what is multiplied; the others hold vectors of a weight."""


def _sizes(size: int | tuple[int, ...] | None, default: tuple[int, ...] = (1, 1)) -> tuple[int, ...]:
    if size is None:
        return default
    return (size, size) if isinstance(size, int) else tuple(size)


def fits(body: Graph) -> bool:
    """Whether a region is one of those written here."""
    first, *others = body.nodes
    if first.op.name == POOL and not others:
        dense = _sizes(first.attrs["padding"]) == (0, 0) and _sizes(first.attrs["dilation"]) == (1, 1)
        return dense and set(first.inputs) <= set(body.inputs.values()) and is_pooled(first)
    if first.op.name != BACK or not others or not are_sparse_gradients(first, others):
        return False
    few = all(math.prod(_weight_shape(node)[2:]) <= MOST_TAPS for node in others)
    return few and _fit_together(body)


def is_pooled(node: Node) -> bool:
    """Whether the results have the shapes and types that pooling gives: C would not notice."""
    (x,), (largest, indices) = node.inputs, node.outputs
    assert isinstance(x, Var)
    kernel = _sizes(node.attrs["kernel_size"])
    step = _sizes(node.attrs["stride"], kernel)
    sizes = ((x.spec.shape[d] - kernel[d - 2]) // step[d - 2] + 1 for d in (2, 3))
    expected = Spec((*x.spec.shape[:2], *sizes), torch.float32, "cpu")
    same = (largest.spec, indices.spec) == (expected, expected._replace(dtype=torch.int64))
    return same and is_small(largest) and x.spec.dtype == torch.float32


def _fit_together(body: Graph) -> bool:
    """Whether all shapes are those of one convolution: C would not notice if a stored file said otherwise."""
    first, *others = body.nodes
    g, indices = first.inputs
    given = set(body.inputs.values())
    if not isinstance(g, Var) or not isinstance(indices, Var) or indices.spec != g.spec._replace(dtype=torch.int64):
        return False
    out = first.outputs[0].spec.shape
    outs, ins, high, wide = weight = _weight_shape(others[0])
    image = (out[0], ins, out[2] + high - 1, out[3] + wide - 1)
    wanted: list[tuple[int, ...]] = []
    for node in others:
        by_weight = (image, weight, (outs,))[: len(node.outputs) + 1]
        wanted += (weight, image) if node.op.name == "conv2d_input" else by_weight
    operands = [node.inputs[1] for node in others]
    values = [v for node in others for v in (node.inputs[1], *node.outputs) if isinstance(v, Var)]
    same = [(v.spec.shape, v.spec.dtype) for v in values] == [(shape, torch.float32) for shape in wanted]
    return same and given >= {g, indices, *operands} and is_small(g) and g.spec.shape[:2] == out[:2] == (out[0], outs)


def region(name: str, body: Graph, pieces: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs."""
    lines = ", ".join(dict.fromkeys(comment(str(node.where)) for node in body.nodes))
    write = _pooled
    if body.nodes[0].op.name != POOL:
        pieces.include(turn())
        write = _gradients
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", *(f"  {s}" for s in write(body)), "  return 0;", "}"])


def place_of(body: Graph, var: object) -> str:
    """Where a value stands: an input, or the first result of that value; NULL where nobody wants it."""
    values = [*body.inputs.values(), *body.outputs.values()]
    return next((f"p[{number}]" for number, each in enumerate(values) if each is var), "NULL")


def _pooled(body: Graph) -> Iterator[str]:
    (node,) = body.nodes
    (x,) = node.inputs
    assert isinstance(x, Var)
    largest, indices = node.outputs
    kernel = _sizes(node.attrs["kernel_size"])
    step = _sizes(node.attrs["stride"], kernel)
    planes, height, width = math.prod(x.spec.shape[:2]), *x.spec.shape[2:]
    rows, columns = largest.spec.shape[2:]
    parallel = math.prod(x.spec.shape) >= PARALLEL_WORK
    yield f"const float *const x = {place_of(body, x)};"
    yield f"float *const largest = {place_of(body, largest)};"
    yield f"int64_t *const indices = {place_of(body, indices)};"
    yield "#pragma omp parallel for schedule(static)" if parallel else ""
    yield f"for (long row = 0; row < {planes * rows}L; row++) {{"
    yield f"  const int y = row % {rows} * {step[0]};"
    yield f"  const float *const plane = x + row / {rows} * {height * width}L;"
    yield f"  float most[{columns}];"
    yield f"  int where[{columns}];"
    yield "  #pragma omp simd"
    yield f"  for (int i = 0; i < {columns}; i++) {{"
    yield "    float best = -INFINITY;"
    yield f"    int at = y * {width} + i * {step[1]};"
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            yield f"    {{ const int j = (y + {ky}) * {width} + i * {step[1]} + {kx}; const float v = plane[j];"
            yield "      const int take = (v > best) | (v != v); best = take ? v : best; at = take ? j : at; }"
    yield "    most[i] = best; where[i] = at;"
    yield "  }"
    if largest in body.outputs.values():
        yield f"  memcpy(largest + row * {columns}, most, sizeof(most));"
    if indices in body.outputs.values():
        yield f"  for (int i = 0; i < {columns}; i++) indices[row * {columns} + i] = where[i];"
    yield "}"


def _weight_shape(node: Node) -> tuple[int, ...]:
    """(out, in, height, width) of the convolution's weight."""
    operand = node.inputs[1]
    assert isinstance(operand, Var)
    return operand.spec.shape if node.op.name == "conv2d_input" else tuple(node.attrs["shape"])


GRADIENTS = """
const float *const g = GRADIENT, *const x = IMAGE, *const weight = WEIGHT;
const int64_t *const indices = INDICES;
float *const by_weight = BY_WEIGHT, *const by_bias = BY_BIAS, *const by_input = BY_INPUT;
const long threads = PARALLEL ? omp_get_max_threads() : 1;
enum { SUMS = (CELLS + OUT + 15) / 16 * 16 };
float *const sums = room(threads * SUMS + CELLS), *const turned = sums + threads * SUMS;
int failed = sums == NULL ? 2 : 0;
if (!failed) memset(sums, 0, (threads * SUMS + CELLS) * sizeof(float));
if (HAS_INPUT && !failed)
  for (long o = 0; o < OUT; o++) for (long c = 0; c < IN; c++) for (long k = 0; k < TAPS; k++)
    turned[(o * TAPS + k) * CHANNELS + c] = weight[(o * IN + c) * TAPS + k];
#pragma omp parallel if(PARALLEL)
{
  float *const image = room(2L * PIXELS * CHANNELS), *const back = image + PIXELS * CHANNELS;
  float *const mine = sums + (PARALLEL ? omp_get_thread_num() : 0) * (long)SUMS, value[WINDOWS];
  int place[WINDOWS];
  if (image == NULL) failed = 2;
  else memset(image, 0, PIXELS * CHANNELS * sizeof(float));
  #pragma omp for schedule(static)
  for (long n = 0; n < IMAGES; n++) {
    if (failed) continue;
    if (HAS_WEIGHT) turn(x + n * IN * PIXELS, PIXELS, image, CHANNELS, IN, PIXELS);
    if (HAS_INPUT) memset(back, 0, PIXELS * CHANNELS * sizeof(float));
    for (long o = 0; o < OUT; o++) {
      int count = 0;
      float total = 0;
      for (long w = 0; w < WINDOWS; w++) {
        const float v = g[(n * OUT + o) * WINDOWS + w];
        const int64_t at = indices[(n * OUT + o) * WINDOWS + w];
        if (at < 0 || at >= PLANE) { failed = 3; continue; }
        value[count] = v;
        place[count] = (at / ROW * WIDTH + at % ROW) * CHANNELS;
        count += v != 0;
        total += v;
      }
      for (long group = 0; group < GROUPS; group++) {
        const long first = group * VECTORS * LANES, cell = o * TAPS * CHANNELS + first;
        if (HAS_WEIGHT) {
          float *const to = mine + cell;
          WEIGHT_LOOP
        }
        if (HAS_INPUT) {
          const float *const from = turned + cell;
          INPUT_LOOP
        }
      }
      mine[CELLS + o] += total;
    }
    if (HAS_INPUT) turn(back, CHANNELS, by_input + n * IN * PIXELS, PIXELS, PIXELS, IN);
  }
  free(image);
}
if (!failed) {
  for (long t = 1; t < threads; t++)
    for (long i = 0; i < CELLS + OUT; i++) sums[i] += sums[t * SUMS + i];
  if (by_weight != NULL)
    for (long o = 0; o < OUT; o++) for (long c = 0; c < IN; c++) for (long k = 0; k < TAPS; k++)
      by_weight[(o * IN + c) * TAPS + k] = sums[(o * TAPS + k) * CHANNELS + c];
  if (by_bias != NULL) memcpy(by_bias, sums + CELLS, OUT * sizeof(float));
}
free(sums);
if (failed) return failed;
"""
"""Both gradients. Words in capitals are numbers and places of a region; what it does not want is dead code."""


def _gradients(body: Graph) -> Iterator[str]:
    first, *others = body.nodes
    g, indices = first.inputs
    assert isinstance(g, Var)
    by_input = next((node for node in others if node.op.name == "conv2d_input"), None)
    by_weight = next((node for node in others if node.op.name != "conv2d_input"), None)
    outs, ins, high, wide = _weight_shape(others[0])
    images, taps, (rows, columns) = g.spec.shape[0], high * wide, first.outputs[0].spec.shape[2:]
    windows, width = math.prod(g.spec.shape[2:]), columns + wide - 1
    lanes, count = registers()
    vectors = max(1, min((count - SPARE) // taps, -(-ins // lanes)))
    groups = -(-ins // (lanes * vectors))
    channels = groups * vectors * lanes
    numbers = {
        "OUT": outs,
        "IN": ins,
        "TAPS": taps,
        "WINDOWS": windows,
        "IMAGES": images,
        "PLANE": rows * columns,
        "PIXELS": (rows + high - 1) * width,
        "WIDTH": width,
        "ROW": columns,
        "VECTORS": vectors,
        "LANES": lanes,
        "GROUPS": groups,
        "CHANNELS": channels,
        "CELLS": outs * taps * channels,
        "HAS_WEIGHT": int(by_weight is not None),
        "HAS_INPUT": int(by_input is not None),
        "PARALLEL": int(images > 1 and images * outs * windows * taps * ins >= PARALLEL_WORK),
    }
    places = {
        "GRADIENT": place_of(body, g),
        "INDICES": place_of(body, indices),
        "IMAGE": place_of(body, by_weight and by_weight.inputs[1]),
        "BY_WEIGHT": _result(body, by_weight, 0),
        "WEIGHT": place_of(body, by_input and by_input.inputs[1]),
        "BY_INPUT": _result(body, by_input, 0),
        "BY_BIAS": _result(body, by_weight, 1),
        "WEIGHT_LOOP": "\n".join(_weight_loop(taps, wide, vectors)),
        "INPUT_LOOP": "\n".join(_input_loop(taps, wide, vectors)),
    }
    yield f"enum {{ {', '.join(f'{name} = {value}' for name, value in numbers.items())} }};"
    yield re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], GRADIENTS.strip())


def _result(body: Graph, node: Node | None, index: int) -> str:
    return place_of(body, node.outputs[index]) if node is not None and index < len(node.outputs) else "NULL"


def _place(tap: int, vector: int) -> str:
    """Where a vector of a channel's weight stands, counted from the first."""
    return f"{tap} * CHANNELS + {vector * registers().lanes}"


def _offset(tap: int, wide: int, vector: int) -> str:
    """Where a vector of a neighbouring pixel stands, counted from the first of a window."""
    return f"({tap // wide} * WIDTH + {tap % wide}) * CHANNELS + {vector * registers().lanes}"


def _held(taps: int, vectors: int) -> Iterator[list[tuple[int, int]]]:
    """All vectors of a channel's weight, by tap and number: as many at a time as there are registers for."""
    cells = [(tap, vector) for tap in range(taps) for vector in range(vectors)]
    most = registers().number - SPARE
    return (cells[start : start + most] for start in range(0, len(cells), most))


def _weight_loop(taps: int, wide: int, vectors: int) -> Iterator[str]:
    """Vectors of a weight kept in registers while elements go by."""
    for cells in _held(taps, vectors):
        yield "{"
        for tap, vector in cells:
            yield f"  vector s{tap}_{vector} = LOAD(to + {_place(tap, vector)});"
        yield "  for (int i = 0; i < count; i++) {"
        yield "    const float v = value[i], *const from = image + place[i] + first;"
        for tap, vector in cells:
            yield f"    s{tap}_{vector} += v * *(const vector *)(from + {_offset(tap, wide, vector)});"
        yield "  }"
        for tap, vector in cells:
            yield f"  LOAD(to + {_place(tap, vector)}) = s{tap}_{vector};"
        yield "}"


def _input_loop(taps: int, wide: int, vectors: int) -> Iterator[str]:
    """Vectors of the weight kept in registers while their multiples are added around each element."""
    for cells in _held(taps, vectors):
        yield "{"
        for tap, vector in cells:
            yield f"  const vector w{tap}_{vector} = *(const vector *)(from + {_place(tap, vector)});"
        yield "  for (int i = 0; i < count; i++) {"
        yield "    const float v = value[i];"
        yield "    float *const to = back + place[i] + first;"
        for tap, vector in cells:
            yield f"    LOAD(to + {_offset(tap, wide, vector)}) += v * w{tap}_{vector};"
        yield "  }"
        yield "}"
