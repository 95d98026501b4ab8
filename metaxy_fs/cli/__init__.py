"""The command line: a demo, and the maintenance of roots."""
