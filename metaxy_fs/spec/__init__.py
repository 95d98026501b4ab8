"""Which words declare features, containers and what they depend on?"""
