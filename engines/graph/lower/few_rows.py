"""A product of few rows by a large matrix, in C: what takes time is reading the matrix, once, with both threads.

    linear:  y[n][j] = bias[j] + sum over l of x[n][l] w[j][l]      # a row of w for each result: sums along it
    matmul:  y[n][j] =           sum over l of x[n][l] w[l][j]      # a column of w: sums of whole vectors of columns

A BLAS is made for products that use what they have read many times; some spend more time on a single row than reading
takes.

Sums are held in registers: of `linear` some results at a time, each a vector of partial sums, of `matmul` vectors of
columns. The last vector of a row of columns begins where it ends with the row: some columns are computed twice.
"""

from __future__ import annotations

import re

import torch

from engines.graph.formulations import FEWEST_COLUMNS, LINEAR_FEW_ROWS, MATMUL_FEW_ROWS, MOST_ROWS
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.loops import comment
from engines.graph.lower.piece import Pieces
from engines.graph.lower.pooling import place_of
from engines.graph.lower.registers import registers

MOST_AT_ONCE = 8
"""Results, or vectors of columns, that are summed at the same time: enough to keep two units for products busy."""

PARALLEL_ELEMENTS = 1 << 16
"""Elements of the matrix from which on threads share it."""


def fits(body: Graph) -> bool:
    """Whether a region is one of those written here, with the shapes that C takes it to have."""
    if len(body.nodes) != 1 or body.nodes[0].op not in {LINEAR_FEW_ROWS, MATMUL_FEW_ROWS}:
        return False
    (node,) = body.nodes
    values = [i for i in (*node.inputs, *node.outputs) if isinstance(i, Var)]
    if not set(values[:-1]) <= set(body.inputs.values()) or list(body.outputs.values()) != list(node.outputs):
        return False
    if any(var.spec.dtype != torch.float32 or var.spec.device != "cpu" for var in values):
        return False
    x, matrix, *bias, result = (var.spec.shape for var in values)
    if len(x) != 2 or len(matrix) != 2:
        return False
    inner, columns = matrix[::-1] if node.op is LINEAR_FEW_ROWS else matrix
    right = x[1] == inner and result == (x[0], columns) and bias in ([], [(columns,)])
    return right and 0 < x[0] <= MOST_ROWS and min(matrix) >= FEWEST_COLUMNS


def region(name: str, body: Graph, _: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs."""
    (node,) = body.nodes
    places = {
        "LEFT": place_of(body, node.inputs[0]),
        "MATRIX": place_of(body, node.inputs[1]),
        "BIAS": place_of(body, node.inputs[2]) if len(node.inputs) > 2 else "NULL",
        "RESULT": place_of(body, node.outputs[0]),
    }
    numbers = _numbers(node)
    constants = f"enum {{ {', '.join(f'{key} = {value}' for key, value in numbers.items())} }};"
    text = (ALONG_ROWS if node.op is LINEAR_FEW_ROWS else ALONG_COLUMNS).strip()
    text = re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], text)
    # Neither a vector's size nor a pragma takes the name of a constant.
    text = re.sub(r"(?<=vector_size\()\w+|(?<=unroll )\w+", lambda found: str(numbers[found[0]]), text)
    return "\n".join([f"// {comment(str(node.where))}", f"int {name}(void **p) {{", constants, text, "}"])


def _numbers(node: Node) -> dict[str, int]:
    """What is fixed in the text, by name."""
    x, matrix = (i.spec.shape for i in node.inputs[:2] if isinstance(i, Var))
    rows, inner = x
    columns = node.outputs[0].spec.shape[1]
    lanes = registers().lanes_for(matrix[1])
    most = max(1, min(MOST_AT_ONCE, registers().number // 2 // rows))
    step = 1 if node.op is LINEAR_FEW_ROWS else lanes
    return {
        "ROWS": rows,
        "INNER": inner,
        "COLUMNS": columns,
        "LANES": lanes,
        "VECTOR_BYTES": 4 * lanes,
        "AT_ONCE": next((count for count in range(most, 0, -1) if columns % (count * step) == 0), 1),
        "PARALLEL": int(inner * columns >= PARALLEL_ELEMENTS),
    }


ALONG_ROWS = """
typedef float part __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
const float *const x = LEFT, *const w = MATRIX, *const bias = BIAS;
float *const y = RESULT;
#pragma omp parallel for schedule(static) if(PARALLEL)
for (long j = 0; j < COLUMNS; j += AT_ONCE) {
  part sums[ROWS][AT_ONCE] = {0};
  const float *const from = w + j * INNER;
  long l = 0;
  for (; l + LANES <= INNER; l += LANES) {
    part left[ROWS];
    #pragma GCC unroll ROWS
    for (int n = 0; n < ROWS; n++) left[n] = *(const part *)(x + n * INNER + l);
    #pragma GCC unroll AT_ONCE
    for (int i = 0; i < AT_ONCE; i++) {
      const part right = *(const part *)(from + i * INNER + l);
      #pragma GCC unroll ROWS
      for (int n = 0; n < ROWS; n++) sums[n][i] += left[n] * right;
    }
  }
  #pragma GCC unroll ROWS
  for (int n = 0; n < ROWS; n++)
    #pragma GCC unroll AT_ONCE
    for (int i = 0; i < AT_ONCE; i++) {
      float sum = bias != NULL ? bias[j + i] : 0;
      for (int e = 0; e < LANES; e++) sum += sums[n][i][e];
      for (long r = l; r < INNER; r++) sum += x[n * INNER + r] * from[i * INNER + r];
      y[n * COLUMNS + j + i] = sum;
    }
}
return 0;
"""
"""Of `linear`. Words in capitals are numbers and places of a region."""

ALONG_COLUMNS = """
typedef float part __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
const float *const x = LEFT, *const w = MATRIX;
float *const y = RESULT;
enum { WIDTH = AT_ONCE * LANES, BLOCKS = (COLUMNS + WIDTH - 1) / WIDTH };
#pragma omp parallel for schedule(static) if(PARALLEL)
for (long block = 0; block < BLOCKS; block++) {
  const long j = (block + 1) * WIDTH <= COLUMNS ? block * WIDTH : COLUMNS - WIDTH;
  part sums[ROWS][AT_ONCE] = {0};
  for (long l = 0; l < INNER; l++) {
    const float *const from = w + l * COLUMNS + j;
    #pragma GCC unroll AT_ONCE
    for (int i = 0; i < AT_ONCE; i++) {
      const part right = *(const part *)(from + i * LANES);
      #pragma GCC unroll ROWS
      for (int n = 0; n < ROWS; n++) sums[n][i] += x[n * INNER + l] * right;
    }
  }
  #pragma GCC unroll ROWS
  for (int n = 0; n < ROWS; n++)
    #pragma GCC unroll AT_ONCE
    for (int i = 0; i < AT_ONCE; i++) *(part *)(y + n * COLUMNS + j + i * LANES) = sums[n][i];
}
return 0;
"""
"""Of `matmul`."""
