"""Turning a matrix in C: channels that lie outermost to the innermost place, and back, 16 by 16 elements at a time.

    turn(from, from_step, to, to_step, rows, columns)       to[j * to_step + i] = from[i * from_step + j]

`room` gives memory for so many floats that whole vectors lie in whole lines of the caches.
"""

from __future__ import annotations

from collections.abc import Iterator

VECTOR = 16
"""Floats of a vector."""


def _exchange(distance: int) -> Iterator[str]:
    """One of four rounds: of two rows so far apart, the second parts of the first and the first of the second."""
    low = [i if not i & distance else VECTOR + i - distance for i in range(VECTOR)]
    high = [i + distance if not i & distance else VECTOR + i for i in range(VECTOR)]
    for i in range(VECTOR):
        if not i & distance:
            first, second = f"r{i}", f"r{i + distance}"
            yield f"  {{ const vector a = {first}, b = {second};"
            yield f"    {first} = SHUFFLE(a, b, {', '.join(map(str, low))});"
            yield f"    {second} = SHUFFLE(a, b, {', '.join(map(str, high))}); }}"


def _turn_square() -> str:
    rows = range(VECTOR)
    loads = ", ".join(f"r{i} = LOAD(from + {i} * from_step)" for i in rows)
    lines = [f"  vector {loads};"]
    for distance in (1, 2, 4, 8):
        lines += _exchange(distance)
    lines += [f"  LOAD(to + {i} * to_step) = r{i};" for i in rows]
    return "\n".join(lines)


TURN = f"""
typedef int32_t lanes __attribute__((vector_size(64)));
#define LOAD(p) (*(vector *)(p))
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){{__VA_ARGS__}})
#endif

static float *room(long floats) {{ return aligned_alloc(64, (floats + 15) / 16 * 64); }}

static void turn_square(const float *from, long from_step, float *to, long to_step) {{
{_turn_square()}
}}

static void turn(const float *from, long from_step, float *to, long to_step, long rows, long columns) {{
  long i = 0;
  for (; i + 16 <= rows; i += 16) {{
    long j = 0;
    for (; j + 16 <= columns; j += 16) turn_square(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
    for (; j < columns; j++) for (long k = i; k < i + 16; k++) to[j * to_step + k] = from[k * from_step + j];
  }}
  for (; i < rows; i++) for (long j = 0; j < columns; j++) to[j * to_step + i] = from[i * from_step + j];
}}
"""
"""Text that a file needs once."""
