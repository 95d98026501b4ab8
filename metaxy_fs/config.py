"""Open the stores that a file names, with their chains, and import the modules that declare features.

Variables of the environment are taken where a store is opened, so a machine needs those of the stores that it uses.
"""

import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final

from metaxy_fs.config_file import VARIABLE, ConfigFile, Keys, read_config_file
from metaxy_fs.errors import ConfigError, MetaxyError
from metaxy_fs.metadata_store import FilesystemMetadataStore, MetadataStore
from metaxy_fs.spec import FeatureGraph
from metaxy_fs.storage.addresses import is_nearly_url, is_url

__all__ = ["Config", "load_config"]

STORE_VARIABLE: Final = "METAXY_FS_STORE"
STORE_KINDS: Final = "metaxy_fs.stores"
"""The group of entry points that packages register their kinds of stores in."""


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
        ... root = "./.metaxy-dev"
        ... fallback = ["prod"]
        ...
        ... [stores.prod]
        ... root = "./production"
        ... ''')
        >>> store = load_config().store("dev")
        >>> len(store.fallback_stores)
        1
    """
    source = read_config_file(path)
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
    _source: ConfigFile = field(repr=False)

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


def _open(source: ConfigFile, name: str, opened: dict[str, MetadataStore]) -> MetadataStore:
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


def _opened(source: ConfigFile, path: Keys, options: dict[str, Any]) -> MetadataStore:
    kind = options.pop("kind", None)
    make: Any = FilesystemMetadataStore if kind is None else _kind(source, path, kind, options)
    try:
        store: MetadataStore = make(**options)
    except MetaxyError:
        raise
    except ValueError as error:
        source.refuse(path, f"the store cannot be opened: {error}", cause=error)
    return store


def _kind(source: ConfigFile, path: Keys, kind: str, options: Mapping[str, Any]) -> Any:
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
            source.refuse_key((*path, key), {*taken, "kind"})
    for key, each in taken.items():
        if each.default is each.empty and each.kind not in _ANY_NUMBER and key not in options:
            source.refuse((*path, "kind"), f"a store of kind {kind!r} needs the key {key!r} as well.")
    return partial(make, base_directory=str(source.file.parent)) if "base_directory" in taken else make


def _filled(source: ConfigFile, path: Keys, value: Any) -> Any:
    """Return a value with the variables of the environment in their places."""
    if isinstance(value, Mapping):
        return {name: _filled(source, (*path, name), part) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(source, path, part) for part in value]
    if not isinstance(value, str):
        return value
    missing = [name for name in VARIABLE.findall(value) if name not in os.environ]
    if missing:
        source.refuse(path, f"the variable {missing[0]!r} of the environment is not set; set it.")
    return VARIABLE.sub(lambda found: os.environ[found[1]], value)


def _beside(file: Path, root: str) -> str:
    """Return a root as it is meant: a relative path starts at the file."""
    is_as_meant = not root or is_url(root) or is_nearly_url(root) or root.startswith("~")
    return root if is_as_meant else str(file.parent / root)


def _import(source: ConfigFile, module: str) -> None:
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
