"""What lies below a root, and what does each object say?"""
