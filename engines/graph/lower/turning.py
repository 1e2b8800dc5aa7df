"""Turning a matrix in C: channels that lie outermost to the innermost place, and back, a square of vectors at a time.

    turn(from, from_step, to, to_step, rows, columns)       to[j * to_step + i] = from[i * from_step + j]

A `vector` is as many floats as a register of this processor holds, and `lanes` as many integers. `room` gives memory
for so many floats that whole vectors lie in whole lines of the caches.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.graph.lower.registers import registers


def turn() -> str:
    """Text that a file needs once."""
    lanes = registers().lanes
    return TEXT.replace("VECTOR_BYTES", str(4 * lanes)).replace("SQUARE", _square(lanes)).replace("LANES", str(lanes))


def _square(lanes: int) -> str:
    """Statements that turn a square of so many vectors."""
    rows = range(lanes)
    loads = ", ".join(f"r{i} = LOAD(from + {i} * from_step)" for i in rows)
    lines = [f"  vector {loads};"]
    distance = 1
    while distance < lanes:
        lines += _exchange(lanes, distance)
        distance *= 2
    lines += [f"  LOAD(to + {i} * to_step) = r{i};" for i in rows]
    return "\n".join(lines)


def _exchange(lanes: int, distance: int) -> Iterator[str]:
    """One round: of two rows so far apart, the second parts of the first and the first of the second."""
    low = [i if not i & distance else lanes + i - distance for i in range(lanes)]
    high = [i + distance if not i & distance else lanes + i for i in range(lanes)]
    for i in range(lanes):
        if not i & distance:
            first, second = f"r{i}", f"r{i + distance}"
            yield f"  {{ const vector a = {first}, b = {second};"
            yield f"    {first} = SHUFFLE(a, b, {', '.join(map(str, low))});"
            yield f"    {second} = SHUFFLE(a, b, {', '.join(map(str, high))}); }}"


TEXT = """
typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4)));
typedef int32_t lanes __attribute__((vector_size(VECTOR_BYTES)));
#define LOAD(p) (*(vector *)(p))
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

static float *room(long floats) { return aligned_alloc(64, (floats + 15) / 16 * 64); }

static void turn_square(const float *from, long from_step, float *to, long to_step) {
SQUARE
}

static void turn(const float *from, long from_step, float *to, long to_step, long rows, long columns) {
  long i = 0;
  for (; i + LANES <= rows; i += LANES) {
    long j = 0;
    for (; j + LANES <= columns; j += LANES)
      turn_square(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
    for (; j < columns; j++) for (long k = i; k < i + LANES; k++) to[j * to_step + k] = from[k * from_step + j];
  }
  for (; i < rows; i++) for (long j = 0; j < columns; j++) to[j * to_step + i] = from[i * from_step + j];
}
"""
