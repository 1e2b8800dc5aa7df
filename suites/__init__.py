"""Benchmarks: workloads written once for every engine, a harness that times them, one test file per question."""
