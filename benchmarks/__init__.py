"""Benchmarks: each measures Farm and a peer in one run and prints a ratio. `script/bench [NAME]`."""
