"""Roots that earlier versions wrote, and what stands in them: a later version must read the same."""
