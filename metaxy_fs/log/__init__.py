"""How are commits kept as files, and how do they become rows again?"""
