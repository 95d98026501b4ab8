"""Name the stores of a project in a file: roots, chains, options, and the modules that declare features.

The file is read once and checked as a whole: a key that nobody knows, a value of the wrong type, a secret or a circle
of fallbacks is refused with its line. Variables of the environment are taken where a store is opened, so a machine
needs those of the stores that it uses.
"""

import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from metaxy_fs.errors import ConfigError, MetaxyError
from metaxy_fs.hashing import HashAlgorithm
from metaxy_fs.metadata_store import FilesystemMetadataStore, MetadataStore
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.spec import FeatureGraph
from metaxy_fs.storage.open import is_url
from metaxy_fs.storage.redaction import secrets_of

__all__ = ["Config", "load_config"]

CONFIG_VARIABLE: Final = "METAXY_FS_CONFIG"
STORE_VARIABLE: Final = "METAXY_FS_STORE"
STORE_KINDS: Final = "metaxy_fs.stores"
"""The group of entry points that packages register their kinds of stores in."""

_FILE = "metaxy_fs.toml"
_PROJECT_FILE = "pyproject.toml"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
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

_Keys = tuple[str, ...]


def load_config(path: str | os.PathLike[str] | None = None) -> "Config":
    """Read the file that names the stores of a project.

    Each directory is searched from the working directory upwards for `metaxy_fs.toml`, then for a `pyproject.toml` with
    a table `[tool.metaxy_fs]`; the first one counts. The environment variable `METAXY_FS_CONFIG` names another file.

    Args:
        path: The file, instead of the one that would be found.

    Raises:
        ConfigError: There is no file, or what it says is refused; `file`, `line` and `key` say where.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("metaxy_fs.toml").write_text('''
        ... [stores.dev]
        ... root = "./.metaxy"
        ... fallback = ["prod"]
        ...
        ... [stores.prod]
        ... root = "./production"
        ... ''')
        >>> store = load_config().store("dev")
        >>> len(store.fallback_stores)
        1
    """
    chosen = path if path is not None else os.environ.get(CONFIG_VARIABLE)
    source = _named(Path(chosen).expanduser().absolute()) if chosen else _find()
    _check(source)
    return Config(
        file=source.file,
        default=source.table.get("default"),
        entrypoints=tuple(source.table.get("entrypoints", ())),
        stores=tuple(source.table.get("stores", {})),
        _source=source,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a file says of the stores of a project; `load_config` reads one.

    Attributes:
        file: Where it stands.
        default: The name of the store that is meant where none is named, if the file says so.
        entrypoints: The modules that declare the features of the project.
        stores: The names of the stores, in the order of the file.
    """

    file: Path
    default: str | None
    entrypoints: tuple[str, ...]
    stores: tuple[str, ...]
    _source: "_ConfigFile" = field(repr=False)

    def store(self, name: str | None = None) -> MetadataStore:
        """Open a store with the stores that it falls back on.

        Args:
            name: One of `stores`; by default the one that the environment variable `METAXY_FS_STORE` names, else
                `default`, else the only one.

        Raises:
            ConfigError: There is no such store, a variable of the environment is not set, or the store cannot be opened
                in the way that the file says.
            ImportError: The package for this kind of root is not installed.

        Examples:
            >>> from pathlib import Path
            >>> _ = Path("metaxy_fs.toml").write_text('stores.dev.root = "${HOME}/.metaxy"')
            >>> load_config().store().list_features()
            []
        """
        return _open(self._source, _chosen(self, name), {})

    def import_features(self) -> FeatureGraph:
        """Import the modules that declare features, and return the active graph.

        A module is looked for where Python looks for any, and beside the file.

        Raises:
            ConfigError: There is no module of that name, or it cannot be imported.

        Examples:
            >>> from pathlib import Path
            >>> _ = Path("video_features.py").write_text('''
            ... from metaxy_fs import Feature, FeatureKey, FeatureSpec
            ...
            ... class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            ...     pass
            ... ''')
            >>> _ = Path("metaxy_fs.toml").write_text('entrypoints = ["video_features"]')
            >>> "video" in load_config().import_features()
            True
        """
        beside = str(self.file.parent)
        if self.entrypoints and beside not in sys.path:
            sys.path.insert(0, beside)
        for module in self.entrypoints:
            _import(self._source, module)
        return FeatureGraph.active()


class _ConfigFile(NamedTuple):
    """A file, and the table of it that is about stores."""

    file: Path
    text: str
    above: _Keys
    table: dict[str, Any]

    def refuse(self, path: _Keys, problem: str, *, cause: BaseException | None = None) -> NoReturn:
        """Refuse what stands at a path of the table, with its line."""
        line = _line(self.text, (*self.above, *path))
        key = ".".join((*self.above, *path))
        raise ConfigError(f"{self.file}, line {line}: {key}: {problem}", file=self.file, line=line, key=key) from cause


def _find() -> _ConfigFile:
    start = Path.cwd()
    for directory in (start, *start.parents):
        for file in (directory / _FILE, directory / _PROJECT_FILE):
            if file.is_file() and (source := _read(file)) is not None:
                return source
    raise ConfigError(
        f"there is no {_FILE}, and no {_PROJECT_FILE} with a table [tool.metaxy_fs], in {start} or a directory above "
        f"it. Write one, or name one in {CONFIG_VARIABLE}."
    )


def _named(file: Path) -> _ConfigFile:
    source = _read(file)
    if source is None:
        raise ConfigError(f"{file} has no table [tool.metaxy_fs]. Add it, or name another file.", file=file)
    return source


def _read(file: Path) -> _ConfigFile | None:
    """Return what a file says of stores, None for a `pyproject.toml` that says nothing."""
    try:
        text = file.read_text("utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Name another file.", file=file) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}", file=file) from error
    if file.name != _PROJECT_FILE:
        return _ConfigFile(file, text, (), document)
    tools = document.get("tool")
    if not isinstance(tools, dict) or "metaxy_fs" not in tools:
        return None
    return _ConfigFile(file, text, ("tool", "metaxy_fs"), tools["metaxy_fs"])


def _check(source: _ConfigFile) -> None:
    if not isinstance(source.table, dict):
        source.refuse((), "expected a table.")
    _check_table(source, (), source.table, _TOP_KEYS)
    stores = source.table.get("stores", {})
    for name, table in stores.items():
        _check_store(source, ("stores", name), table)
    _refuse_circles(source, stores)
    if (default := source.table.get("default")) is not None:
        _refuse_unknown_store(source, ("default",), default)


def _check_table(source: _ConfigFile, path: _Keys, table: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if key not in keys:
            _refuse_key(source, (*path, key), keys)
        try:
            msgspec.convert(value, type=keys[key])
        except msgspec.ValidationError as error:
            source.refuse((*path, key), f"{str(error).partition(' - at ')[0]}.", cause=error)


def _refuse_key(source: _ConfigFile, path: _Keys, keys: Mapping[str, Any]) -> NoReturn:
    near = get_close_matches(path[-1], keys, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    source.refuse(path, f"there is no such key; expected one of {', '.join(sorted(keys))}.{meant}")


def _check_store(source: _ConfigFile, path: _Keys, table: Mapping[str, Any]) -> None:
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


def _refuse_unknown_store(source: _ConfigFile, path: _Keys, name: str) -> None:
    stores = source.table.get("stores", {})
    if name not in stores:
        source.refuse(path, f"there is no store {name!r}; there are {', '.join(stores) or 'none'}.")


def _refuse_circles(source: _ConfigFile, stores: Mapping[str, Any]) -> None:
    try:
        TopologicalSorter({name: table.get("fallback", ()) for name, table in stores.items()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # it names what is fallen back on first
        way = " -> ".join(circle)
        source.refuse(("stores", circle[-2], "fallback"), f"the stores fall back on each other: {way}.", cause=error)


def _is_secret(path: _Keys, text: str) -> bool:
    """Whether a string holds what may be a credential, outside of the variables that it takes."""
    options: Any = text if not _VARIABLE.search(text) else ""
    for name in reversed(path):
        options = {name: options}
    literal = _VARIABLE.sub("", text)
    return bool(secrets_of(literal, options))


def _strings(value: Any, path: _Keys) -> Iterator[tuple[_Keys, str]]:
    """Yield the strings below a value, each with the names that lead to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _strings(part, (*path, name))
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part, path)


def _chosen(config: Config, name: str | None) -> str:
    if name is None:
        name = os.environ.get(STORE_VARIABLE) or config.default
    if name is None and len(config.stores) == 1:
        return config.stores[0]
    there_are = f"there are {', '.join(config.stores)}" if config.stores else "it names no store at all"
    if name is None:
        raise ConfigError(
            f'{config.file} has no default store; {there_are}. Name one, or add default = "..." to the file.',
            file=config.file,
        )
    if name not in config.stores:
        raise ConfigError(f"{config.file} has no store {name!r}; {there_are}.", file=config.file)
    return name


def _open(source: _ConfigFile, name: str, opened: dict[str, MetadataStore]) -> MetadataStore:
    """Open a store and what it falls back on, each store once."""
    if name not in opened:
        table = source.table["stores"][name]
        chain = [_open(source, each, opened) for each in table.get("fallback", ())]
        path = ("stores", name)
        options = {key: _filled(source, (*path, key), value) for key, value in table.items() if key != "fallback"}
        for key in {"root", "cache_dir"} & set(options):
            options[key] = _beside(source.file, options[key])
        opened[name] = _opened(source, path, options | {"fallback_stores": chain})
    return opened[name]


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _opened(source: _ConfigFile, path: _Keys, options: dict[str, Any]) -> MetadataStore:
    kind = options.pop("kind", None)
    make: Any = FilesystemMetadataStore if kind is None else _kind(source, path, kind, options)
    try:
        store: MetadataStore = make(**options)
    except MetaxyError:
        raise
    except ValueError as error:
        source.refuse(path, f"the store cannot be opened: {error}", cause=error)
    return store


def _kind(source: _ConfigFile, path: _Keys, kind: str, options: Mapping[str, Any]) -> Any:
    """Return what makes stores of a kind, and refuse options that it does not take."""
    kinds = {each.name: each for each in import_module("importlib.metadata").entry_points(group=STORE_KINDS)}
    if kind not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        source.refuse(
            (*path, "kind"),
            f"no installed package has stores of this kind; known are {known}. Without a kind, a store is a root.",
        )
    make = kinds[kind].load()
    taken = inspect.signature(make).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        for key in set(options) - set(taken) - {"fallback_stores"}:
            _refuse_key(source, (*path, key), {**dict.fromkeys(taken, Any), "kind": str})
    for key, each in taken.items():
        if each.default is each.empty and each.kind not in _ANY_NUMBER and key not in options:
            source.refuse((*path, "kind"), f"a store of kind {kind!r} needs the key {key!r} as well.")
    return partial(make, base_directory=str(source.file.parent)) if "base_directory" in taken else make


def _filled(source: _ConfigFile, path: _Keys, value: Any) -> Any:
    """Return a value with the variables of the environment in their places."""
    if isinstance(value, Mapping):
        return {name: _filled(source, (*path, name), part) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(source, path, part) for part in value]
    if not isinstance(value, str):
        return value
    missing = [name for name in _VARIABLE.findall(value) if name not in os.environ]
    if missing:
        source.refuse(path, f"the variable {missing[0]!r} of the environment is not set; set it.")
    return _VARIABLE.sub(lambda found: os.environ[found[1]], value)


def _beside(file: Path, root: str) -> str:
    """Return a root as it is meant: a relative path starts at the file."""
    return root if not root or is_url(root) or root.startswith("~") else str(file.parent / root)


def _import(source: _ConfigFile, module: str) -> None:
    try:
        import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the module does
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            problem = f"there is no module {error.name!r} beside the file or installed."
        else:
            problem = f"the module {module!r} cannot be imported: {type(error).__name__}: {error}{_place(error)}."
        source.refuse(("entrypoints",), problem, cause=error)


def _place(error: BaseException) -> str:
    """Return the last line of others that an error has come through."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    package = str(Path(__file__).parent)
    last = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith((package, "<"))][-1]
    return f" ({last.filename}, line {last.lineno})"


def _line(text: str, path: _Keys) -> int:
    """Return the line where a statement begins that first gives a path a value.

    The lines before it are TOML without the path. Those that end within a longer value are no TOML, and say nothing.
    """
    lines = text.split("\n")
    before = [number for number in range(len(lines)) if _lacks("\n".join(lines[:number]), path)]
    return max(before) + 1


def _lacks(text: str, path: _Keys) -> bool:
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return True
        value = value[name]
    return False
