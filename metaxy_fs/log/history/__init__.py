"""How is one commit told from the others: to list it, to see it again, to copy it?"""
