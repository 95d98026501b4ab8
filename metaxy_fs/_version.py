"""Which version of the library is this?"""

__version__ = "0.1.0"

WRITER = f"metaxy_fs {__version__}"
"""How what the library writes says what wrote it."""
