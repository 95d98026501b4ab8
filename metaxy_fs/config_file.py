"""Find, read and check the file that names the stores of a project.

It is checked as a whole, once: a key that nobody knows, a value of the wrong type, a secret or a circle of fallbacks is
refused with its line.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from metaxy_fs.errors import ConfigError
from metaxy_fs.hashing import HashAlgorithm
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.storage.redaction import secrets_of
from metaxy_fs.system_errors import naming

CONFIG_VARIABLE: Final = "METAXY_FS_CONFIG"
VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
"""Where a value takes a variable of the environment."""

_FILE = "metaxy_fs.toml"
_PROJECT_FILE = "pyproject.toml"
_TOP_KEYS = {"default": str, "entrypoints": list[str], "stores": dict[str, dict[str, Any]]}
_CHAIN_KEYS = {"fallback": list[str], "fallback_mode": FallbackMode, "tags": dict[str, str]}
_STORE_KEYS = {
    "root": str,
    "kind": str,
    **_CHAIN_KEYS,
    "storage_options": dict[str, Any],
    "hash_algorithm": HashAlgorithm,
    "cache_dir": str,
    "cache_bytes": int,
    "compact_after": int,
}

Keys = tuple[str, ...]
"""The names that lead to a value."""


def read_config_file(path: str | os.PathLike[str] | None) -> "ConfigFile":
    """Return a file that names stores, the one that is found by default.

    Raises:
        ConfigError: There is none, or what it says is refused.
    """
    chosen = path if path is not None else os.environ.get(CONFIG_VARIABLE)
    source = _named(Path(chosen).expanduser().absolute()) if chosen else _find()
    _check(source)
    return source


class ConfigFile(NamedTuple):
    """A file, and the table of it that is about stores."""

    file: Path
    text: str
    above: Keys
    table: dict[str, Any]

    def refuse(self, path: Keys, problem: str, *, cause: BaseException | None = None) -> NoReturn:
        """Refuse what stands at a path of the table, with its line."""
        line = _line(self.text, (*self.above, *path))
        key = ".".join((*self.above, *path))
        raise ConfigError(f"{self.file}, line {line}: {key}: {problem}", file=self.file, line=line, key=key) from cause

    def refuse_key(self, path: Keys, keys: Collection[str]) -> NoReturn:
        """Refuse a key that is none of those that are known."""
        near = get_close_matches(path[-1], keys, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        self.refuse(path, f"there is no such key; expected one of {', '.join(sorted(keys))}.{meant}")


def _find() -> ConfigFile:
    start = Path.cwd()
    for directory in (start, *start.parents):
        for file in (directory / _FILE, directory / _PROJECT_FILE):
            if file.is_file() and (source := _read(file)) is not None:
                return source
    raise ConfigError(
        f"there is no {_FILE}, and no {_PROJECT_FILE} with a table [tool.metaxy_fs], in {start} or a directory above "
        f"it. Write one, or name one in {CONFIG_VARIABLE}."
    )


def _named(file: Path) -> ConfigFile:
    source = _read(file)
    if source is None:
        raise ConfigError(f"{file} has no table [tool.metaxy_fs]. Add it, or name another file.", file=file)
    return source


def _read(file: Path) -> ConfigFile | None:
    """Return what a file says of stores, None for a `pyproject.toml` that says nothing."""
    try:
        with naming("read the configuration", file):
            text = file.read_text("utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(str(error), file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no text in UTF-8: {error}. Name another file.", file=file) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}", file=file) from error
    if file.name != _PROJECT_FILE:
        return ConfigFile(file, text, (), document)
    tools = document.get("tool")
    if not isinstance(tools, dict) or "metaxy_fs" not in tools:
        return None
    return ConfigFile(file, text, ("tool", "metaxy_fs"), tools["metaxy_fs"])


def _check(source: ConfigFile) -> None:
    if not isinstance(source.table, dict):
        source.refuse((), "expected a table.")
    _check_table(source, (), source.table, _TOP_KEYS)
    stores = source.table.get("stores", {})
    for name, table in stores.items():
        _check_store(source, ("stores", name), table)
    _refuse_circles(source, stores)
    if (default := source.table.get("default")) is not None:
        _refuse_unknown_store(source, ("default",), default)


def _check_table(source: ConfigFile, path: Keys, table: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if key not in keys:
            source.refuse_key((*path, key), keys)
        try:
            msgspec.convert(value, type=keys[key])
        except msgspec.ValidationError as error:
            source.refuse((*path, key), f"{str(error).partition(' - at ')[0]}.", cause=error)


def _check_store(source: ConfigFile, path: Keys, table: Mapping[str, Any]) -> None:
    kind = table.get("kind")
    if kind is None:
        _check_table(source, path, table, _STORE_KEYS)
        if "root" not in table:
            source.refuse(path, "the store has no root; give it one, a directory or a URL.")
    else:  # what else it takes, the kind says when it is opened
        _check_table(source, path, table, dict.fromkeys(table, Any) | _CHAIN_KEYS | {"kind": str})
    for name in table.get("fallback", ()):
        _refuse_unknown_store(source, (*path, "fallback"), name)
    for below, value in _strings(table, ()):
        if _is_secret(below, value):
            source.refuse(
                (*path, *below),
                "a secret may not stand in a file. Keep it in the environment, and write "
                f'{below[-1]} = "${{NAME_OF_THE_VARIABLE}}", or leave it to the client to find its credentials.',
            )


def _refuse_unknown_store(source: ConfigFile, path: Keys, name: str) -> None:
    stores = source.table.get("stores", {})
    if name not in stores:
        source.refuse(path, f"there is no store {name!r}; there are {', '.join(stores) or 'none'}.")


def _refuse_circles(source: ConfigFile, stores: Mapping[str, Any]) -> None:
    try:
        TopologicalSorter({name: table.get("fallback", ()) for name, table in stores.items()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # it names what is fallen back on first
        way = " -> ".join(circle)
        source.refuse(("stores", circle[-2], "fallback"), f"the stores fall back on each other: {way}.", cause=error)


def _is_secret(path: Keys, text: str) -> bool:
    """Whether a string holds what may be a credential, outside of the variables that it takes."""
    options: Any = text if not VARIABLE.search(text) else ""
    for name in reversed(path):
        options = {name: options}
    literal = VARIABLE.sub("", text)
    return bool(secrets_of(literal, options))


def _strings(value: Any, path: Keys) -> Iterator[tuple[Keys, str]]:
    """Yield the strings below a value, each with the names that lead to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _strings(part, (*path, name))
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part, path)


def _line(text: str, path: Keys) -> int:
    """Return the line where a statement begins that first gives a path a value.

    The lines before it are TOML without the path. Those that end within a longer value are no TOML, and say nothing.
    """
    lines = text.split("\n")
    before = [number for number in range(len(lines)) if _lacks("\n".join(lines[:number]), path)]
    return max(before) + 1


def _lacks(text: str, path: Keys) -> bool:
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return True
        value = value[name]
    return False
