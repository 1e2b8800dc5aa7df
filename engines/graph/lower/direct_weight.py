"""The gradient by a convolution's weight as the sums that define it, in C, behind the relu whose gradient feeds it.

    w[o][c][i][j] = sum over n, r, q of g[n][o][r][q] x[n][c][r + i][q + j]
    b[o]          = sum over n, r, q of g[n][o][r][q]

Where there are few channels to read, a library turns whole images into its own order to multiply few numbers of them.

Columns lie in vectors, and each lane is a sum of its own until an image is done; then lanes are added, in double
precision. A row of the window for some channels of g is held in registers, so that what is loaded of an image meets
several channels, and what is loaded of g several columns of the window. The last vector of a row begins where it ends
with the row: products that were added before are taken out. Threads share the channels of g, so sums have one order.
"""

from __future__ import annotations

import math
import re

import torch

from engines.graph.formulations import FEWEST_COLUMNS, WEIGHT_BIAS_DIRECT, WEIGHT_DIRECT
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.direct import PARALLEL_PRODUCTS
from engines.graph.lower.loops import comment
from engines.graph.lower.piece import Pieces
from engines.graph.lower.pooling import place_of
from engines.graph.lower.registers import registers
from engines.ops.conv import pair
from engines.value import Spec

MOST_CHANNELS = 4
"""Of g, at once: as many as there are registers for, which hold a row of the window for each."""

WIDEST = 16
"""Columns of a window, at most: each is a vector of sums for each channel."""

SUMS = 0.75
"""The share of all registers that hold sums: the others are for what is multiplied."""


def fits(body: Graph) -> bool:
    """Whether a region is one of those written here, with the shapes that C takes it to have."""
    *before, node = body.nodes
    if node.op not in {WEIGHT_DIRECT, WEIGHT_BIAS_DIRECT}:
        return False
    if [each.op.name for each in before] not in ([], ["relu_backward"]):
        return False
    operands = [i for i in (*_of_g(body), node.inputs[1]) if isinstance(i, Var)]
    if len(operands) != 2 + len(before) or not set(operands) <= set(body.inputs.values()):
        return False
    results = list(body.outputs.values())
    if before and node.inputs[0] is not before[0].outputs[0]:
        return False
    if len(results) != len(set(results)) or not set(results) <= set(node.outputs):
        return False
    if any(var.spec.dtype != torch.float32 or var.spec.device != "cpu" for var in operands):
        return False
    g, x, weight = operands[0].spec.shape, operands[-1].spec.shape, tuple(node.attrs["shape"])
    if len(g) != 4 or len(x) != 4 or len(weight) != 4 or 0 in (*g, *x, *weight):
        return False
    pads = pair(node.attrs["padding"])
    seen = tuple(x[d] + 2 * pads[d - 2] - weight[d] + 1 for d in (2, 3))
    same = g == (x[0], weight[0], *seen) and weight[1] == x[1] and all(var.spec.shape == g for var in _of_g(body))
    expected = [Spec(weight, torch.float32, "cpu"), Spec(weight[:1], torch.float32, "cpu")]
    made_here = [var.spec for var in node.outputs]
    narrow = min(pads) >= 0 and seen[1] >= FEWEST_COLUMNS and weight[3] <= WIDEST
    return same and narrow and made_here == expected[: len(made_here)]


def _of_g(body: Graph) -> list[Var]:
    """The gradient as it comes, and what relu gave, if it comes from there."""
    first = body.nodes[0]
    taken = first.inputs if len(body.nodes) > 1 else first.inputs[:1]
    return [i for i in taken if isinstance(i, Var)]


def region(name: str, body: Graph, _: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs."""
    node = body.nodes[-1]
    g, *relu = _of_g(body)
    places = {
        "GRADIENT": place_of(body, g),
        "GIVEN": place_of(body, relu[0] if relu else None),
        "IMAGE": place_of(body, node.inputs[1]),
        "BY_WEIGHT": place_of(body, node.outputs[0]),
        "BY_BIAS": place_of(body, node.outputs[1] if len(node.outputs) > 1 else None),
    }
    numbers = {**_numbers(node), "RELU": len(relu)}
    lines = ", ".join(dict.fromkeys(comment(str(each.where)) for each in body.nodes))
    constants = f"enum {{ {', '.join(f'{key} = {value}' for key, value in numbers.items())} }};"
    text = re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], TEXT.strip())
    for constant in ("VECTOR_BYTES", "CHANNELS_AT_ONCE", "WINDOW_WIDE"):
        text = text.replace(constant, str(numbers[constant]))
    keep = ", ".join("0" if lane < numbers["LANES"] - numbers["LEFT"] else "-1" for lane in range(numbers["LANES"]))
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", constants, text.replace("KEPT", keep), "}"])


def _numbers(node: Node) -> dict[str, int]:
    """What is fixed in the text, by name."""
    g, x = (i.spec.shape for i in node.inputs if isinstance(i, Var))
    outs, ins, window_high, window_wide = node.attrs["shape"]
    high, wide = pair(node.attrs["padding"])
    lanes = registers().lanes_for(g[3])
    most = max(1, min(MOST_CHANNELS, int(SUMS * registers().number) // window_wide))
    return {
        "IMAGES": g[0],
        "IN": ins,
        "OUT": outs,
        "HIGH": x[2],
        "WIDE": x[3],
        "PAD_HIGH": high,
        "PAD_WIDE": wide,
        "WINDOW_HIGH": window_high,
        "WINDOW_WIDE": window_wide,
        "ROWS": g[2],
        "COLUMNS": g[3],
        "LANES": lanes,
        "LEFT": g[3] % lanes,
        "VECTOR_BYTES": 4 * lanes,
        "CHANNELS_AT_ONCE": next(count for count in range(most, 0, -1) if outs % count == 0),
        "PARALLEL": int(math.prod(g) * ins * window_high * window_wide >= PARALLEL_PRODUCTS),
    }


TEXT = """
typedef float part __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(VECTOR_BYTES)));
const float *const g = GRADIENT, *const given = GIVEN, *const x = IMAGE;
float *const by_weight = BY_WEIGHT, *const by_bias = BY_BIAS;
enum { TALL = HIGH + 2 * PAD_HIGH, BROAD = WIDE + 2 * PAD_WIDE, PADDED = PAD_HIGH + PAD_WIDE > 0, LINE = 4 * WIDE,
       WINDOW = WINDOW_HIGH * WINDOW_WIDE, GROUPS = OUT / CHANNELS_AT_ONCE, PLANE = ROWS * COLUMNS,
       TOGETHER = CHANNELS_AT_ONCE * PLANE, CELLS = CHANNELS_AT_ONCE * IN * WINDOW };
const mask keep = {KEPT};
int failed = 0;
#pragma omp parallel if(PARALLEL)
{
  double *const totals = malloc((CELLS + CHANNELS_AT_ONCE) * sizeof(double)), *const plain = totals + CELLS;
  float *const copy = calloc(1 + (PADDED ? (long)IN * TALL * BROAD : 0), sizeof(float));
  float *const passed = malloc((1 + (RELU ? TOGETHER : 0)) * sizeof(float));
  if (totals == NULL || copy == NULL || passed == NULL) failed = 2;
  #pragma omp for schedule(static)
  for (long group = 0; group < GROUPS; group++) {
    if (failed) continue;
    const long o = group * CHANNELS_AT_ONCE;
    memset(totals, 0, (CELLS + CHANNELS_AT_ONCE) * sizeof(double));
    for (long n = 0; n < IMAGES; n++) {
      const float *slopes = g + (n * OUT + o) * PLANE, *image = x + n * IN * HIGH * WIDE;
      if (RELU) {
        const float *const sign = given + (n * OUT + o) * PLANE;
        for (long e = 0; e < TOGETHER; e++) passed[e] = sign[e] <= 0 ? 0 : slopes[e];
        slopes = passed;
      }
      if (PADDED) {
        for (long c = 0; c < IN; c++) for (long r = 0; r < HIGH; r++)
          memcpy(copy + (c * TALL + r + PAD_HIGH) * BROAD + PAD_WIDE, image + (c * HIGH + r) * WIDE, LINE);
        image = copy;
      }
      if (by_bias != NULL)
        for (long b = 0; b < CHANNELS_AT_ONCE; b++) {
          part sum = {0};
          long e = 0;
          for (; e + LANES <= PLANE; e += LANES) sum += *(const part *)(slopes + b * PLANE + e);
          for (int lane = 0; lane < LANES; lane++) plain[b] += sum[lane];
          for (; e < PLANE; e++) plain[b] += slopes[b * PLANE + e];
        }
      for (long c = 0; c < IN; c++) for (long i = 0; i < WINDOW_HIGH; i++) {
        part sums[CHANNELS_AT_ONCE][WINDOW_WIDE];
        #pragma GCC unroll CHANNELS_AT_ONCE
        for (int b = 0; b < CHANNELS_AT_ONCE; b++)
          #pragma GCC unroll WINDOW_WIDE
          for (int j = 0; j < WINDOW_WIDE; j++) sums[b][j] = (part){0};
        for (long r = 0; r < ROWS; r++) {
          const float *const from = image + (c * TALL + r + i) * BROAD, *const by = slopes + r * COLUMNS;
          long q = 0;
          for (; q + LANES <= COLUMNS; q += LANES)
            #pragma GCC unroll WINDOW_WIDE
            for (int j = 0; j < WINDOW_WIDE; j++) {
              const part seen = *(const part *)(from + q + j);
              #pragma GCC unroll CHANNELS_AT_ONCE
              for (int b = 0; b < CHANNELS_AT_ONCE; b++) sums[b][j] += *(const part *)(by + b * PLANE + q) * seen;
            }
          if (q < COLUMNS) {
            q = COLUMNS - LANES;
            #pragma GCC unroll WINDOW_WIDE
            for (int j = 0; j < WINDOW_WIDE; j++) {
              const part seen = *(const part *)(from + q + j);
              #pragma GCC unroll CHANNELS_AT_ONCE
              for (int b = 0; b < CHANNELS_AT_ONCE; b++)
                sums[b][j] += (part)((mask)(*(const part *)(by + b * PLANE + q) * seen) & keep);
            }
          }
        }
        for (int b = 0; b < CHANNELS_AT_ONCE; b++) for (int j = 0; j < WINDOW_WIDE; j++)
          for (int lane = 0; lane < LANES; lane++)
            totals[(b * IN + c) * WINDOW + i * WINDOW_WIDE + j] += sums[b][j][lane];
      }
    }
    if (by_weight != NULL) for (long e = 0; e < CELLS; e++) by_weight[o * IN * WINDOW + e] = totals[e];
    if (by_bias != NULL) for (long b = 0; b < CHANNELS_AT_ONCE; b++) by_bias[o + b] = plain[b];
  }
  free(totals);
  free(copy);
  free(passed);
}
return failed;
"""
"""The whole. Words in capitals are numbers and places of a region."""
