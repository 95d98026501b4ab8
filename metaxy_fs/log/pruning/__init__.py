"""Which bytes of the data files need not be fetched?"""
