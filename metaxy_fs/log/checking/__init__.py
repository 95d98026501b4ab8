"""Is everything in a root as it should be, and what can be put back?"""
