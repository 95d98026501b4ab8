"""Which version does a definition, and each of its samples, have, and what follows from a difference?"""
