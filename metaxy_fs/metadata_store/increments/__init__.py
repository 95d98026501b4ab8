"""Which versions do samples get, and which of them have to be computed?"""
