"""Which rows are asked for, and as of which moment?"""
