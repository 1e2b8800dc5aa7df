"""A convolution of 3 by 3 by Winograd's F(2x2, 3x3) in C, with the max-pooling of 2 by 2 that reads it, if one does.

    U[p][c][o] = (G w[o][c] G')[p]                 the weight, for each of the 16 places p of a tile
    V[p][t][c] = (B' x[c][tile t] B)[p]            tiles of 4 by 4, two apart
    M[p][t][o] = sum over c of V[p][t][c] U[p][c][o]
    y[o][tile t] = A' M[.][t][o] A + bias[o]       2 by 2 results, which are just one window of the pooling

Inside, channels lie innermost, in vectors: a band of an image is turned into that order, and results back. Tiles
are worked on in blocks for which V and M stay in the nearer caches. M is a matrix product for each place, in blocks of
some tiles by some vectors of channels that are held in registers.
"""

from __future__ import annotations

import math
import re

import torch

from engines.graph.formulations import WINOGRAD
from engines.graph.ir import Graph, Node, Var
from engines.graph.lower.loops import comment
from engines.graph.lower.nest import PARALLEL_WORK
from engines.graph.lower.piece import Pieces
from engines.graph.lower.pooling import is_pooled, place_of
from engines.graph.lower.registers import Registers, registers
from engines.graph.lower.turning import turn
from engines.graph.pooled import POOL
from engines.ops.conv import pair
from engines.value import Spec

SUMS = 0.75
"""The share of all registers that hold vectors of M: the others are for what is multiplied."""

BLOCK_BYTES = 256 * 1024
"""What V and M of a block of tiles may take of the nearer caches."""

FEW_IMAGES, BANDS = 8, 4
"""Of fewer images each is cut into bands, so that threads have something to share."""


def fits(body: Graph) -> bool:
    """Whether a region is one of those written here, with the shapes that C takes it to have."""
    first, *others = body.nodes
    if first.op is not WINOGRAD or len(others) > 1 or not set(_operands(first)) <= set(body.inputs.values()):
        return False
    if others and not _is_plain_pool(others[0], first.outputs[0]):
        return False
    results = list(body.outputs.values())
    if not results or len(results) != len(set(results)) or not set(results) <= set(body.nodes[-1].outputs):
        return False
    x, weight, *bias = _operands(first)
    (outs, ins, *window), pads = weight.spec.shape, pair(first.attrs["padding"])
    rows, columns = (x.spec.shape[d] + 2 * pads[d - 2] - 2 for d in (2, 3))
    expected = Spec((x.spec.shape[0], outs, rows, columns), torch.float32, "cpu")
    same = first.outputs[0].spec == expected and window == [3, 3] and x.spec.shape[1] == ins
    floats = all(var.spec.dtype == torch.float32 for var in (x, weight, *bias))
    fit = [b.spec.shape for b in bias] in ([], [(outs,)]) and min(rows, columns) >= 2 and min(pads) >= 0
    return same and floats and fit


def _operands(node: Node) -> list[Var]:
    return [i for i in node.inputs if isinstance(i, Var)]


def _is_plain_pool(node: Node, given: Var) -> bool:
    """A max-pool of windows of 2 by 2, side by side."""
    if node.op.name != POOL or node.inputs != (given,) or not is_pooled(node):
        return False
    sizes = [pair(node.attrs[name]) for name in ("kernel_size", "padding", "dilation")]
    return sizes == [[2, 2], [0, 0], [1, 1]] and node.attrs["stride"] in (None, 2, (2, 2))


def region(name: str, body: Graph, pieces: Pieces) -> str:
    """A C function `int name(void **p)`: p points to the body's inputs, then to its outputs."""
    pieces.include(turn())
    first, *pools = body.nodes
    x, weight, *bias = _operands(first)
    numbers = _numbers(first, pools, registers())
    results = pools[0].outputs if pools else first.outputs
    places = {
        "IMAGE": place_of(body, x),
        "WEIGHT": place_of(body, weight),
        "BIAS": place_of(body, bias[0] if bias else None),
        "RESULT": place_of(body, results[0]),
        "INDICES": place_of(body, results[1] if pools else None),
    }
    lines = ", ".join(dict.fromkeys(comment(str(node.where)) for node in body.nodes))
    constants = f"enum {{ {', '.join(f'{key} = {value}' for key, value in numbers.items())} }};"
    text = re.sub(rf"\b({'|'.join(places)})\b", lambda found: places[found[0]], TEXT.strip())
    text = text.replace("TILES_AT_ONCE", str(numbers["TOGETHER"])).replace("VECTORS_AT_ONCE", str(numbers["VECTORS"]))
    return "\n".join([f"// {lines}", f"int {name}(void **p) {{", constants, text, "}"])


def _numbers(node: Node, pools: list[Node], machine: Registers) -> dict[str, int]:
    """What is fixed in the text, by name."""
    x, weight, *_ = _operands(node)
    images, ins, high, wide = x.spec.shape
    outs, (pad_high, pad_wide) = weight.spec.shape[0], pair(node.attrs["padding"])
    rows, columns = node.outputs[0].spec.shape[2:]
    tile_rows, tile_columns = (rows // 2, columns // 2) if pools else (-(-rows // 2), -(-columns // 2))
    channels, results = (-(-count // machine.lanes) * machine.lanes for count in (ins, outs))
    vectors, together = _block(results // machine.lanes, machine.number)
    band = -(-tile_rows // (1 if images >= FEW_IMAGES else BANDS))
    block = max(1, BLOCK_BYTES // (16 * 4 * (channels + results)) // together) * together
    return {
        "IMAGES": images,
        "IN": ins,
        "OUT": outs,
        "CHANNELS": channels,
        "OUTS": results,
        "HIGH": high,
        "WIDE": wide,
        "PAD_HIGH": pad_high,
        "PAD_WIDE": pad_wide,
        "ROWS": rows,
        "COLUMNS": columns,
        "TILE_ROWS": tile_rows,
        "TILE_COLUMNS": tile_columns,
        "WIDTH": max(2 * tile_columns + 2, wide + 2 * pad_wide),
        "BAND": band,
        "BANDS": -(-tile_rows // band),
        "BLOCK": min(block, -(-band * tile_columns // together) * together),
        "TOGETHER": together,
        "VECTORS": vectors,
        "LANES": machine.lanes,
        "CELLS": channels * results,
        "POOLED": len(pools),
        "PARALLEL": int(math.prod(node.outputs[0].spec.shape) * ins >= PARALLEL_WORK),
    }


def _block(vectors: int, count: int) -> tuple[int, int]:
    """How many vectors of channels by how many tiles of M are held in so many registers at once."""
    sums = int(SUMS * count)
    wide = next(wide for wide in (4, 3, 2, 1) if vectors % wide == 0 and sums // wide * wide + wide < count)
    return wide, sums // wide


TEXT = """
const float *const x = IMAGE, *const weight = WEIGHT, *const bias = BIAS;
float *const y = RESULT;
int64_t *const indices = INDICES;
enum { HEIGHT = 2 * BAND + 2, SIDE = POOLED ? 1 : 2, SPOTS = BAND * TILE_COLUMNS * SIDE * SIDE,
       AROUND = HEIGHT * WIDTH * CHANNELS, MADE = SPOTS * OUTS, GIVEN = BLOCK * CHANNELS, TAKEN = BLOCK * OUTS };
int failed = 0;
float *const U = room(16L * CELLS + OUTS), *const added = U + 16L * CELLS;
if (U == NULL) return 2;
if (IN < CHANNELS || OUT < OUTS) memset(U, 0, 16L * CELLS * sizeof(float));
for (long o = 0; o < OUTS; o++) added[o] = bias != NULL && o < OUT ? bias[o] : 0;
#pragma omp parallel if(PARALLEL)
{
  #pragma omp for schedule(static)
  for (long c = 0; c < IN; c++) for (long o = 0; o < OUT; o++) {
    const float *const g = weight + (o * IN + c) * 9;
    float h[4][3];
    for (int k = 0; k < 3; k++) {
      h[0][k] = g[k]; h[3][k] = g[6 + k];
      h[1][k] = 0.5f * (g[k] + g[3 + k] + g[6 + k]); h[2][k] = 0.5f * (g[k] - g[3 + k] + g[6 + k]);
    }
    for (int k = 0; k < 4; k++) {
      float *const to = U + k * 4L * CELLS + c * OUTS + o;
      to[0] = h[k][0]; to[3 * CELLS] = h[k][2];
      to[CELLS] = 0.5f * (h[k][0] + h[k][1] + h[k][2]); to[2 * CELLS] = 0.5f * (h[k][0] - h[k][1] + h[k][2]);
    }
  }
  float *const image = room(AROUND + 16L * GIVEN + 16L * TAKEN + MADE + MADE);
  float *const V = image + AROUND, *const M = V + 16L * GIVEN, *const made = M + 16L * TAKEN;
  int *const chosen = (int *)(made + MADE);
  if (image == NULL) failed = 2;
  else memset(image, 0, AROUND * sizeof(float));
  #pragma omp for schedule(static)
  for (long task = 0; task < IMAGES * (long)BANDS; task++) {
    if (failed) continue;
    const long n = task / BANDS, above = task % BANDS * BAND;
    const long tall = above + BAND < TILE_ROWS ? BAND : TILE_ROWS - above, tiles = tall * TILE_COLUMNS;
    const float *const from = x + n * IN * HIGH * WIDE;
    if (PAD_HIGH == 0 && PAD_WIDE == 0 && WIDTH == WIDE && 2 * TILE_ROWS + 2 <= HIGH)
      turn(from + 2 * above * WIDE, HIGH * WIDE, image, CHANNELS, IN, (2 * tall + 2) * WIDE);
    else
      for (long r = 0; r < 2 * tall + 2; r++) {
        const long row = 2 * above + r - PAD_HIGH;
        float *const to = image + r * WIDTH * CHANNELS;
        if (row < 0 || row >= HIGH) memset(to, 0, WIDTH * CHANNELS * sizeof(float));
        else turn(from + row * WIDE, HIGH * WIDE, to + PAD_WIDE * CHANNELS, CHANNELS, IN, WIDE);
      }
    for (long first = 0; first < tiles; first += BLOCK) {
      const long count = tiles - first < BLOCK ? tiles - first : BLOCK;
      for (long t = 0; t < count; t++) {
        const long tile = first + t;
        const float *const corner = image + (tile / TILE_COLUMNS * 2 * WIDTH + tile % TILE_COLUMNS * 2) * CHANNELS;
        for (long c = 0; c < CHANNELS; c += LANES) {
          vector a[4][4];
          #pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            const float *const d = corner + j * CHANNELS + c;
            const vector d0 = LOAD(d), d1 = LOAD(d + WIDTH * CHANNELS), d2 = LOAD(d + 2 * WIDTH * CHANNELS),
                         d3 = LOAD(d + 3 * WIDTH * CHANNELS);
            a[0][j] = d0 - d2; a[1][j] = d1 + d2; a[2][j] = d2 - d1; a[3][j] = d1 - d3;
          }
          #pragma GCC unroll 4
          for (int i = 0; i < 4; i++) {
            float *const to = V + i * 4L * GIVEN + t * CHANNELS + c;
            LOAD(to) = a[i][0] - a[i][2]; LOAD(to + GIVEN) = a[i][1] + a[i][2];
            LOAD(to + 2 * GIVEN) = a[i][2] - a[i][1]; LOAD(to + 3 * GIVEN) = a[i][1] - a[i][3];
          }
        }
      }
      for (long p = 0; p < 16; p++) for (long o = 0; o < OUTS; o += VECTORS * LANES)
        for (long t = 0; t < count; t += TOGETHER) {
          vector sums[TOGETHER][VECTORS];
          #pragma GCC unroll TILES_AT_ONCE
          for (int i = 0; i < TOGETHER; i++)
            #pragma GCC unroll VECTORS_AT_ONCE
            for (int j = 0; j < VECTORS; j++) sums[i][j] = (vector){0};
          const float *const v = V + p * GIVEN + t * CHANNELS, *const u = U + p * CELLS + o;
          for (long c = 0; c < CHANNELS; c++) {
            vector b[VECTORS];
            #pragma GCC unroll VECTORS_AT_ONCE
            for (int j = 0; j < VECTORS; j++) b[j] = LOAD(u + c * OUTS + j * LANES);
            #pragma GCC unroll TILES_AT_ONCE
            for (int i = 0; i < TOGETHER; i++) {
              const float a = v[i * CHANNELS + c];
              #pragma GCC unroll VECTORS_AT_ONCE
              for (int j = 0; j < VECTORS; j++) sums[i][j] += a * b[j];
            }
          }
          #pragma GCC unroll TILES_AT_ONCE
          for (int i = 0; i < TOGETHER; i++)
            #pragma GCC unroll VECTORS_AT_ONCE
            for (int j = 0; j < VECTORS; j++) LOAD(M + p * TAKEN + (t + i) * OUTS + o + j * LANES) = sums[i][j];
        }
      for (long t = 0; t < count; t++) {
        const long row = (first + t) / TILE_COLUMNS, column = (first + t) % TILE_COLUMNS;
        for (long o = 0; o < OUTS; o += LANES) {
          vector a[2][4];
          #pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            const float *const m = M + j * TAKEN + t * OUTS + o;
            const vector m0 = LOAD(m), m1 = LOAD(m + 4L * TAKEN), m2 = LOAD(m + 8L * TAKEN), m3 = LOAD(m + 12L * TAKEN);
            a[0][j] = m0 + m1 + m2; a[1][j] = m1 - m2 - m3;
          }
          const vector more = LOAD(added + o);
          const vector r[4] = {a[0][0] + a[0][1] + a[0][2] + more, a[0][1] - a[0][2] - a[0][3] + more,
                               a[1][0] + a[1][1] + a[1][2] + more, a[1][1] - a[1][2] - a[1][3] + more};
          if (POOLED) {
            const int corner = (2 * (above + row) * COLUMNS) + 2 * column, at[4] = {0, 1, COLUMNS, COLUMNS + 1};
            vector most = r[0];
            lanes where = (lanes){0} + corner;
            #pragma GCC unroll 3
            for (int k = 1; k < 4; k++) {
              const lanes take = (r[k] > most) | (r[k] != r[k]);
              most = (vector)(((lanes)r[k] & take) | ((lanes)most & ~take));
              where = ((corner + at[k]) & take) | (where & ~take);
            }
            LOAD(made + (first + t) * OUTS + o) = most;
            memcpy(chosen + (first + t) * OUTS + o, &where, sizeof(where));
          } else
            for (int k = 0; k < 4; k++)
              LOAD(made + ((2 * row + k / 2) * 2 * TILE_COLUMNS + 2 * column + k % 2) * OUTS + o) = r[k];
        }
      }
    }
    if (POOLED) {
      const long plane = TILE_ROWS * TILE_COLUMNS, start = n * OUT * plane + above * TILE_COLUMNS;
      if (y != NULL) turn(made, OUTS, y + start, plane, tiles, OUT);
      if (indices != NULL)
        for (long o = 0; o < OUT; o++) for (long t = 0; t < tiles; t++)
          indices[start + o * plane + t] = chosen[t * OUTS + o];
    } else
      for (long r = 0; r < 2 * tall && 2 * above + r < ROWS; r++)
        turn(made + r * 2 * TILE_COLUMNS * OUTS, OUTS, y + (n * OUT * ROWS + 2 * above + r) * (long)COLUMNS,
             ROWS * COLUMNS, COLUMNS, OUT);
  }
  free(image);
}
free(U);
return failed;
"""
"""The whole. Words in capitals are numbers and places of a region; what it does not want is dead code."""
