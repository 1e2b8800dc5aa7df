"""What every generated Triton module begins with: the functions that formulas call, for tiles of float32 and float64.

`exp` and `tanh` follow the C prelude: in float32 they hold to about 1 unit in the last place, NaN and infinities
included, where the processor's own exponential would not. Double precision has Triton's exponential, and a rational
function for tanh near 0 (Cephes, S. L. Moshier). Division and roots are rounded as IEEE 754 asks.
"""

PRELUDE = """
import triton
import triton.language as tl


@triton.jit
def exp(x):
    if x.dtype == tl.float64:
        y = tl.exp(x)
    else:  # 2^n exp(r), r = x - n ln 2 in two parts; 2^n in two factors for denormals
        held = tl.where(x > 128.0, 128.0, tl.where(x < -128.0, -128.0, x))
        held = tl.where(x == x, held, 0.0)
        n = tl.floor(held * 1.44269504 + 0.5)
        r = (held - n * 0.693359375) + n * 2.12194440e-4
        p = r * 1.9875691500e-4 + 1.3981999507e-3
        p = p * r + 8.3334519073e-3
        p = p * r + 4.1665795894e-2
        p = p * r + 1.6666665459e-1
        p = p * r + 5.0000001201e-1
        p = p * (r * r) + r + 1.0
        whole = n.to(tl.int32)
        half = whole >> 1
        scaled = p * ((half + 127) << 23).to(tl.float32, bitcast=True)
        scaled = scaled * ((whole - half + 127) << 23).to(tl.float32, bitcast=True)
        y = tl.where(x > 128.0, float("inf"), tl.where(x < -128.0, 0.0, scaled))
        y = tl.where(x == x, y, x)
    return y


@triton.jit
def tanh(x):
    size = tl.abs(x)
    square = x * x
    if x.dtype == tl.float64:
        p = (square * -9.64399179425052238628e-1 - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
        q = ((square + 1.12811678491632931402e2) * square + 2.23548839060100448583e3) * square
        near = x + x * (square * p / (q + 4.84406305325125486048e3))
        small = size < 0.625
    else:
        p = square * 1.214693204e-04 - 8.411315698e-04
        p = p * square + 3.078585047e-03
        p = p * square - 8.595106941e-03
        p = p * square + 2.178472725e-02
        p = p * square - 5.395309751e-02
        p = p * square + 1.333320037e-01
        p = p * square - 3.333332930e-01
        near = p * square * x + x
        small = size < 1.0
    far = 1.0 - 2.0 / (exp(size + size) + 1.0)
    far = tl.where(x < 0.0, -far, far)
    return tl.where(small, near, tl.where(x == x, far, x))


@triton.jit
def sigmoid(x):
    return divide(1.0, 1.0 + exp(-x))


@triton.jit
def divide(x, y):
    if y.dtype == tl.float64:
        z = x / y
    else:
        z = tl.div_rn(x, y)
    return z


@triton.jit
def root(x):
    if x.dtype == tl.float64:
        y = tl.sqrt(x)
    else:
        y = tl.sqrt_rn(x)
    return y


@triton.jit
def log_softmax(x, inside):
    most = tl.max(tl.where(inside, x, -float("inf")), 1, keep_dims=True)
    total = tl.sum(tl.where(inside, exp(x - most), 0.0), 1, keep_dims=True)
    return x - most - tl.log(total)


@triton.jit
def softmax(x, inside):
    most = tl.max(tl.where(inside, x, -float("inf")), 1, keep_dims=True)
    y = exp(x - most)
    return divide(y, tl.sum(tl.where(inside, y, 0.0), 1, keep_dims=True))


@triton.jit
def log_softmax_backward(g, y, inside):
    return g - exp(y) * tl.sum(tl.where(inside, g, 0.0), 1, keep_dims=True)


@triton.jit
def softmax_backward(g, y, inside):
    return (g - tl.sum(tl.where(inside, g * y, 0.0), 1, keep_dims=True)) * y


@triton.jit
def at_label(x, label, column, count):
    # A label that is no column gives NaN: a kernel cannot raise, and torch's own would end the process's use of CUDA.
    found = tl.sum(tl.where(column == label, x, 0.0), 1, keep_dims=True)
    return tl.where((label >= 0) & (label < count), found, float("nan"))


@triton.jit
def put_at_label(g, label, column, count):
    placed = tl.where(column == label, g, 0.0)
    return tl.where((label >= 0) & (label < count), placed, float("nan"))


@triton.jit
def random_word(key, start, index):
    # SplitMix64 up to its last step, the generator of engines/ops/random.py.
    z = (index.to(tl.uint64) + start) * 0x9E3779B97F4A7C15 + key.to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z.to(tl.int64)
"""
