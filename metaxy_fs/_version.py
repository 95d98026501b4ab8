"""The version of the library; the build reads it from here."""

__version__ = "0.2.0"

WRITER = f"metaxy_fs {__version__}"
"""How what the library writes says what wrote it."""
