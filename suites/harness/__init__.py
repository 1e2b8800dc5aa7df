"""How numbers are taken: cells, clocks, agreement with a reference, statistics, memory, the machine they came from."""
