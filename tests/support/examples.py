"""How many examples a property is tried with."""

from typing import Any

from hypothesis import settings


def examples(count: int, **options: Any) -> settings:
    """Return the settings of a property that is tried with fewer or more examples than the hundred of the others.

    An example that writes to stores costs thousands of times one that parses a name. A profile that tries more of all
    (`HYPOTHESIS_PROFILE=thorough`) tries more of these in proportion, which a plain number would keep from it.
    """
    return settings(max_examples=max(1, count * settings().max_examples // 100), **options)
