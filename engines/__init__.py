"""Two engines over one op table: a tape that records what runs, and a graph that is compiled before it runs.

from engines.tape import Tape
with Tape() as tape:
    w = tape.parameter(weights)
    loss = tape.ops.sum(tape.ops.tanh(w))
    (gradient,) = tape.gradients(loss, [w])
"""
