"""Versions of definitions and samples, and the increments that follow from a difference."""
