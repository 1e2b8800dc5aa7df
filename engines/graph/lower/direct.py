"""A convolution without stride as the sums that define it, in C, with the relu that reads it, if one does.

    y[n][o][r][q] = bias[o] + sum over c, i, j of w[o][c][i][j] x[n][c][r + i][q + j]

Where a convolution is small, most of a library's time is the way to its kernel.

Columns lie in vectors. A block of some rows by some channels of the result is held in registers, so that what is loaded
of the image meets several channels, and what is loaded of the weight several rows. The last vector of a row begins
where it ends with the row: some columns are computed twice, and none is left over. An image that is padded is copied
with its border first.
"""

from __future__ import annotations

import math
import re

import torch

from engines.graph.formulations import DIRECT, FEWEST_COLUMNS
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.loops import comment
from engines.graph.lower.piece import Pieces
from engines.graph.lower.pooling import place_of
from engines.graph.lower.registers import registers
from engines.ops.conv import pair
from engines.value import Spec

MOST_ROWS, MOST_CHANNELS = 4, 4
"""Of a block, which may also take no more than half of the registers: with 8 vectors of sums two units for products are
busy, and there is room for what is multiplied."""

PARALLEL_PRODUCTS = 1 << 17
"""Products from which on threads share a convolution."""


def fits(body: Graph) -> bool:
    """Whether a region is one of those written here, with the shapes that C takes it to have."""
    node, *others = body.nodes
    operands = [i for i in node.inputs if isinstance(i, Var)]
    if node.op is not DIRECT or not set(operands) <= set(body.inputs.values()):
        return False
    if [(other.op.name, other.inputs) for other in others] not in ([], [("relu", node.outputs)]):
        return False
    result = body.nodes[-1].outputs[0]
    if list(body.outputs.values()) != [result] or result.spec != node.outputs[0].spec:
        return False
    if any(var.spec.dtype != torch.float32 or var.spec.device != "cpu" for var in operands):
        return False
    x, weight, *bias = (var.spec.shape for var in operands)
    if len(x) != 4 or len(weight) != 4 or x[1] != weight[1] or bias not in ([], [weight[:1]]):
        return False
    pads = pair(node.attrs["padding"])
    seen = tuple(x[d] + 2 * pads[d - 2] - weight[d] + 1 for d in (2, 3))
    expected = Spec((x[0], weight[0], *seen), torch.float32, "cpu")
    return node.outputs[0].spec == expected and min(expected.shape) > 0 <= min(pads) and seen[1] >= FEWEST_COLUMNS


def region(name: str, body: Graph, _: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs."""
    node, *others = body.nodes
    places = {
        "IMAGE": place_of(body, node.inputs[0]),
        "WEIGHT": place_of(body, node.inputs[1]),
        "BIAS": place_of(body, node.inputs[2]),
        "RESULT": place_of(body, body.nodes[-1].outputs[0]),
    }
    numbers = {**_numbers(node), "RELU": len(others)}
    lines = ", ".join(dict.fromkeys(comment(str(each.where)) for each in body.nodes))
    constants = f"enum {{ {', '.join(f'{key} = {value}' for key, value in numbers.items())} }};"
    text = re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], TEXT.strip())
    for constant in ("VECTOR_BYTES", "CHANNELS_AT_ONCE", "ROWS_AT_ONCE"):
        text = text.replace(constant, str(numbers[constant]))
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", constants, text, "}"])


def _numbers(node: Node) -> dict[str, int]:
    """What is fixed in the text, by name."""
    x, weight = (i.spec.shape for i in node.inputs[:2] if isinstance(i, Var))
    high, wide = pair(node.attrs["padding"])
    images, outs, rows, columns = node.outputs[0].spec.shape
    lanes = registers().lanes_for(columns)
    together = next(count for count in range(MOST_ROWS, 0, -1) if rows % count == 0)
    most_channels = min(MOST_CHANNELS, registers().number // 2 // together)
    return {
        "IMAGES": images,
        "IN": x[1],
        "OUT": outs,
        "HIGH": x[2],
        "WIDE": x[3],
        "PAD_HIGH": high,
        "PAD_WIDE": wide,
        "WINDOW_HIGH": weight[2],
        "WINDOW_WIDE": weight[3],
        "ROWS": rows,
        "COLUMNS": columns,
        "LANES": lanes,
        "VECTOR_BYTES": 4 * lanes,
        "ROWS_AT_ONCE": together,
        "CHANNELS_AT_ONCE": next(count for count in range(most_channels, 0, -1) if outs % count == 0),
        "PARALLEL": int(images * outs * rows * columns * math.prod(weight[1:]) >= PARALLEL_PRODUCTS),
    }


TEXT = """
typedef float part __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(VECTOR_BYTES)));
const float *const x = IMAGE, *const weight = WEIGHT, *const bias = BIAS;
float *const y = RESULT;
enum { TALL = HIGH + 2 * PAD_HIGH, BROAD = WIDE + 2 * PAD_WIDE, PADDED = PAD_HIGH + PAD_WIDE > 0,
       LINE = 4 * WIDE, WINDOW = WINDOW_HIGH * WINDOW_WIDE, GROUPS = OUT / CHANNELS_AT_ONCE };
int failed = 0;
#pragma omp parallel if(PARALLEL)
{
  float *const copy = PADDED ? calloc((long)IN * TALL * BROAD, sizeof(float)) : NULL;
  if (PADDED && copy == NULL) failed = 2;
  long copied = -1;
  #pragma omp for schedule(static)
  for (long task = 0; task < IMAGES * (long)GROUPS; task++) {
    if (failed) continue;
    const long n = task / GROUPS, o = task % GROUPS * CHANNELS_AT_ONCE;
    if (PADDED && copied != n) {
      for (long c = 0; c < IN; c++) for (long r = 0; r < HIGH; r++)
        memcpy(copy + (c * TALL + r + PAD_HIGH) * BROAD + PAD_WIDE, x + ((n * IN + c) * HIGH + r) * WIDE, LINE);
      copied = n;
    }
    const float *const image = PADDED ? copy : x + n * IN * TALL * BROAD;
    for (long r = 0; r < ROWS; r += ROWS_AT_ONCE) for (long next = 0; next < COLUMNS; next += LANES) {
      const long q = next + LANES <= COLUMNS ? next : COLUMNS - LANES;
      part sums[ROWS_AT_ONCE][CHANNELS_AT_ONCE];
      #pragma GCC unroll ROWS_AT_ONCE
      for (int a = 0; a < ROWS_AT_ONCE; a++)
        #pragma GCC unroll CHANNELS_AT_ONCE
        for (int b = 0; b < CHANNELS_AT_ONCE; b++) sums[a][b] = (part){0} + (bias != NULL ? bias[o + b] : 0);
      for (long c = 0; c < IN; c++) for (long i = 0; i < WINDOW_HIGH; i++) {
        const float *const from = image + (c * TALL + r + i) * BROAD + q;
        const float *const w = weight + (o * IN + c) * WINDOW + i * WINDOW_WIDE;
        for (long j = 0; j < WINDOW_WIDE; j++) {
          part seen[ROWS_AT_ONCE];
          #pragma GCC unroll ROWS_AT_ONCE
          for (int a = 0; a < ROWS_AT_ONCE; a++) seen[a] = *(const part *)(from + a * BROAD + j);
          #pragma GCC unroll CHANNELS_AT_ONCE
          for (int b = 0; b < CHANNELS_AT_ONCE; b++) {
            const float by = w[b * IN * WINDOW + j];
            #pragma GCC unroll ROWS_AT_ONCE
            for (int a = 0; a < ROWS_AT_ONCE; a++) sums[a][b] += by * seen[a];
          }
        }
      }
      #pragma GCC unroll ROWS_AT_ONCE
      for (int a = 0; a < ROWS_AT_ONCE; a++)
        #pragma GCC unroll CHANNELS_AT_ONCE
        for (int b = 0; b < CHANNELS_AT_ONCE; b++) {
          part *const to = (part *)(y + ((n * OUT + o + b) * ROWS + r + a) * COLUMNS + q);
          *to = RELU ? (part)((mask)sums[a][b] & ~(sums[a][b] < 0)) : sums[a][b];
        }
    }
  }
  free(copy);
}
return failed;
"""
"""The whole. Words in capitals are numbers and places of a region."""
