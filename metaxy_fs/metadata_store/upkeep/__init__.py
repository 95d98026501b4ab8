"""How is the root of a store kept small and whole, and taken elsewhere?"""
