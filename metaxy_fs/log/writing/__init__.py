"""How does a write become visible, all of it or nothing?"""
