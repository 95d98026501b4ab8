"""How long tests wait for what has to come."""

from typing import Final

PATIENCE: Final = 600.0
"""In seconds: long enough for a machine that is ten times as busy. Nothing waits so long unless it hangs."""
