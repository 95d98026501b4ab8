"""Which commits are brought into one manifest and few files, when, and how?"""
