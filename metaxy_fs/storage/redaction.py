"""Keep credentials out of names, messages and reprs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"key(?!s)|secret|token|passw|pwd|cred|signature|^sig$|sas|auth|connection_string|user", re.IGNORECASE
)
# `user:password@` ends with the last `@` before a slash. No bucket has a colon in its name, so there it ends with the
# last `@` of all, since secrets of AWS may hold slashes; elsewhere a colon may begin a port. pathlib drops a slash.
# In Azure's URLs what stands there is the container, without which two roots of one account would be one.
_USER_INFO = re.compile(
    r"((?<![\w+.-])(?:s3a?|gcs|gs):[/\\]+)((?!arn:)[^/\\\s:@]*:\S*)@"
    r"|((?<![A-Za-z])(?!(?:abfss?|wasbs?):[/\\]+[^/\\\s:@]+@[^/\\\s:@]*(?:[/\\\s]|$))[A-Za-z][\w+.-]+:[/\\]+)"
    r"([^/\\\s]*|(?!arn:)[^/\\\s:@]*:(?!\d{1,5}(?:/|$))\S*)@",
    re.IGNORECASE,
)
_MAY_HOLD_SECRETS = re.compile(r"header|cookie|passphrase|session|proxies|proxy", re.IGNORECASE)
_QUERY_PART = re.compile(r"(?<=[?&;])([^=&;\s?]+)=([^&;#\s]*)")
# What clients take in the place of a credential to say where to look for one.
_NO_SECRETS = {"anon", "anonymous", "cloud", "cache", "browser", "google_default", "default", "true", "false"}
# Shorter values are no secrets, and would be found inside ordinary words.
_SHORTEST_SECRET = 4


def redact(url: str) -> str:
    """Return a URL without `user:password@`, and without the values of query parts whose names speak of a secret.

    Examples:
        >>> redact("sftp://me:hunter2@host/data?token=abc&region=eu")
        'sftp://host/data?token=***&region=eu'
    """
    return _QUERY_PART.sub(_hide_secret_part, _USER_INFO.sub(_without_user_info, url))


def secrets_of(url: str, storage_options: Mapping[str, Any]) -> frozenset[str]:
    """Return the strings of a URL and of storage options that may be credentials, also as they look inside a URL."""
    plain = {*_secrets_in_url(url), *_secrets_in(storage_options, below_secret=False)}
    counted = {text for text in plain if len(text) >= _SHORTEST_SECRET and text.lower() not in _NO_SECRETS}
    return frozenset(counted | {quote(text, safe="") for text in counted})


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of storage options that are plain values and no credentials, at any depth.

    An object may hold anything, and so may a list of headers, so both are left out.

    Examples:
        >>> without_secrets({"key": "AKIA123", "client_kwargs": {"region_name": "eu", "aws_session_token": "x"}})
        {'client_kwargs': {'region_name': 'eu'}}
    """
    kept: dict[str, Any] = {}
    for name, value in options.items():
        is_secret = bool(_SECRET_NAME.search(str(name)) or _MAY_HOLD_SECRETS.search(str(name)))
        if isinstance(value, Mapping) and not is_secret:
            kept[name] = without_secrets(value)
        elif _is_plain(value) and not (is_secret and str(value).lower() not in _NO_SECRETS):
            kept[name] = value
    return kept


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | None) and not (isinstance(value, str) and any(_secrets_in_url(value)))


def conceal(text: str, secrets: frozenset[str]) -> str:
    """Return a string with each of the secrets replaced."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def reveals(error: BaseException | None, secrets: frozenset[str]) -> bool:
    """Whether an error, or one that a traceback would print with it, holds one of the secrets."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(secret in str(error) or secret in repr(error) for secret in secrets):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _without_user_info(found: re.Match[str]) -> str:
    return found[1] or found[3]


def _hide_secret_part(part: re.Match[str]) -> str:
    return f"{part[1]}={HIDDEN}" if _SECRET_NAME.search(part[1]) else part[0]


def _secrets_in_url(url: str) -> Iterator[str]:
    for found in _USER_INFO.finditer(url):
        for part in (found[2] or found[4]).split(":", 1):
            yield from (part, unquote(part))
    for name, value in _QUERY_PART.findall(url):
        if _SECRET_NAME.search(name):
            yield from (value, unquote(value))


def _secrets_in(value: object, *, below_secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _secrets_in(part, below_secret=below_secret or bool(_SECRET_NAME.search(str(name))))
    elif isinstance(value, str):
        # The values of options may be URLs themselves, of a proxy for one.
        yield from (value,) if below_secret else _secrets_in_url(value)
    elif isinstance(value, bytes):
        yield from _secrets_in(value.decode(errors="replace"), below_secret=below_secret)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _secrets_in(part, below_secret=below_secret)
