"""Check the values of a declaration."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from metaxy_fs.errors import SpecError
from metaxy_fs.reserved import DATA_VERSION, PREFIX, PROVENANCE
from metaxy_fs.spec.keys import FeatureKey


def is_encodable(text: str) -> bool:
    """Whether a string can be encoded as UTF-8; one that holds half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def require(value: object, kind: type, *, what: str) -> None:
    """Refuse a value of another kind."""
    if not isinstance(value, kind):
        raise SpecError(f"{what} takes a {kind.__name__}, got {value!r}.")


def sequence(values: Any, *kinds: type, what: str) -> tuple[Any, ...]:
    """Return the values as a tuple of some kinds; a lone text is a mistake, not a sequence of characters."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise SpecError(f"{what} takes a list of {kinds[0].__name__}, got {values!r}.")
    for value in values:
        if not isinstance(value, kinds):
            require(value, kinds[0], what=f"Each of {what}")
    return tuple(values)


def refuse_duplicates(names: Sequence[object], *, what: str) -> None:
    """Names are duplicates where their strings are, since versions and columns are keyed by the strings."""
    twice = [name for name, count in Counter(map(_string, names)).items() if count > 1]
    if twice:
        raise SpecError(f"{what}: '{twice[0]}' is named more than once.")


def check_column_names(names: Sequence[str], *, what: str) -> None:
    """Refuse what no column can be called that a declaration names.

    Args:
        names: The names.
        what: What they are, to begin a sentence with.
    """
    if not all(names):
        raise SpecError(f"{what} need a name each, got {list(names)!r}.")
    if not all(map(is_encodable, names)):
        raise SpecError(f"{what} hold a name that cannot be encoded as UTF-8: {list(names)!r}.")
    if any(name == "*" or (name.startswith("^") and name.endswith("$")) for name in names):
        raise SpecError(f"{what} hold a name that Polars reads as a pattern: {list(names)!r}.")
    if {DATA_VERSION, PROVENANCE}.intersection(names) or any(name.startswith(PREFIX) for name in names):
        raise SpecError(f"{what} hold a name with another meaning: {list(names)!r}.")


def _string(name: object) -> str:
    return name.string if isinstance(name, FeatureKey) else str(name)
