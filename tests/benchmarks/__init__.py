"""Benchmarks: the library beside others, and beside the least that its work could take."""
