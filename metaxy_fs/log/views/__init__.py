"""Which commits does a partition hold, and which files have their rows?"""
