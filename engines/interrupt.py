"""Ctrl-C, caught."""

from __future__ import annotations


def forget_interrupt() -> None:
    """Let a command's exit code stand after it caught a KeyboardInterrupt.

    One that strikes while source text is executed, as loading a module with dataclasses does, stays marked as unhandled
    in CPython, caught or not, and `python -m` then ends by the signal instead. To execute text once more clears the
    mark (`run_eval_code_obj` in CPython's pythonrun.c).
    """
    exec("")  # noqa: S102
