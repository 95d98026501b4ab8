"""How do rows that a caller hands in become commits, at once or bit by bit?"""
