"""What is in a data file, byte for byte?"""
