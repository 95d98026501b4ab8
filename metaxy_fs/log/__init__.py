"""The log: commits as files below one root, and the rows that they hold."""
