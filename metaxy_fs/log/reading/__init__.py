"""How do the data files of a view become rows in order?"""
