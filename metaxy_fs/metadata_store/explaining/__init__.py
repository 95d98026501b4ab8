"""Why has a sample its version, and what would change it?"""
