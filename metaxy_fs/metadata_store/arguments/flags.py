"""Is an argument that says yes or no a boolean?"""


def flag(value: object, *, name: str, others: str = "") -> bool:
    """Return a flag as it was given: the text "no" and None are no answers, and one of them could delete files.

    Args:
        value: What was given.
        name: What users call the argument.
        others: What it may be besides, for the message.

    Raises:
        TypeError: It is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True{f', {others}' if others else ''} or False, got {value!r}.")
    return value
