"""Open Delta tables below a path or a URL, and say what went wrong with them."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from obstore.fsspec import FsspecStore

from metaxy_fs.errors import StorageError
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage import Storage, open_storage
from metaxy_fs.storage.addresses import address_of, is_url
from metaxy_fs.storage.redaction import conceal, redact, reveals, secrets_of

# Options of deltalake that obstore takes apart from the others, and beginnings of those that it does not take.
_OF_CLIENTS: Final = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout")
_OF_DELTA: Final = ("aws_s3_", "backoff_", "delta_", "max_retries", "retry_timeout")
# Characters of paths that deltalake or Polars reads as part of a URL or pattern, or of the name of a partition.
_NOT_IN_PATHS: Final = re.compile(r"[%#?*=|^\\\[\]\x00-\x1f]")


class DeltaTables:
    """The Delta tables below a path or URL.

    Args:
        uri: The path or URL.
        options: Handed to `deltalake`.
        base_directory: Where a relative path starts.

    Raises:
        ValueError: Tables cannot be at such a path.
    """

    def __init__(
        self, uri: str | os.PathLike[str], options: Mapping[str, str], base_directory: str | os.PathLike[str] = ""
    ) -> None:
        self.uri, self.options = _checked(address_of(uri), base_directory), dict(options)
        self._secrets = secrets_of(self.uri, self.options)

    def storage(self, name: str = "") -> Storage:
        """Return the objects of a table, by default those below all of them: for their names, and for snapshots."""
        address = self.address(name) if name else self.uri
        if not self.options or not is_url(address):
            return open_storage(address)
        config, clients = dict[str, Any](), dict[str, Any]()
        for option in (option for option in self.options if not option.lower().startswith(_OF_DELTA)):
            plain = option.lower().removeprefix("aws_")
            of_whom, known_as = (clients, plain) if plain in _OF_CLIENTS else (config, option.lower())
            of_whom[known_as] = self.options[option]
        protocol, _, path = address.partition("://")
        make: Any = FsspecStore  # whose options depend on the protocol
        return open_storage(path, filesystem=make(protocol, config=config, client_options=clients))

    def address(self, name: str) -> str:
        """Return the path or URL of a table, which may be relative to that of all."""
        is_relative = is_url(self.uri) and not is_url(name) and not Path(name).is_absolute()
        return _checked(address_of(f"{self.uri}/{name}" if is_relative else name), self.uri)

    def find(self, name: str, key: FeatureKey, *, version: int | None = None) -> DeltaTable | None:
        """Return a table at its latest version, or at another one; None if there is none.

        Raises:
            StorageError: It could not be opened, or there is no such version.
        """
        problem = "the table could not be opened" if version is None else f"version {version} could not be read"
        with self.translated(name, key, problem), suppress(TableNotFoundError):
            return _Unquoted(self.address(name), version=version, storage_options=self.options)
        return None

    def scan(self, table: DeltaTable) -> pl.LazyFrame:
        """Return the rows of a version of a table."""
        # The one option that Polars knows by the same name, and takes as a number alone.
        retries = {name: int(value) for name, value in self.options.items() if name == "max_retries"}
        return pl.scan_delta(table, version=table.version(), storage_options=retries)

    def refuse(self, name: str, key: FeatureKey, problem: str) -> NoReturn:
        """Raise what says that something is wrong with the table of a feature."""
        shown = redact(self.address(name))
        raise StorageError(f"{shown} {problem}.", feature=key.dotted, root=shown)

    @contextmanager
    def translated(self, name: str, key: FeatureKey, problem: str) -> Iterator[None]:
        """Have what Delta, Polars and the system raise be a `StorageError` that shows no secret."""
        try:
            yield
        except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
            shown = redact(self.address(name))
            told = f"{shown}: {problem} ({conceal(str(error), self._secrets)})."
            cause = None if reveals(error, self._secrets) else error
            raise StorageError(told, feature=key.dotted, root=shown) from cause


class _Unquoted(DeltaTable):
    """A table whose files Polars finds: deltalake quotes the path or URL of the table, and Polars takes it as it is."""

    def file_uris(self, *args: Any, **options: Any) -> list[str]:
        quoted, path = self._directory
        return [uri.replace(quoted, path, 1) for uri in super().file_uris(*args, **options)]

    def deletion_vectors(self) -> Any:
        quoted, path = self._directory
        place = pl.col("filepath").str.replace(quoted, path, literal=True)
        return pl.DataFrame(super().deletion_vectors()).with_columns(place)

    @property
    def _directory(self) -> tuple[str, str]:
        """The path or URL of the table as deltalake writes it, and as it is."""
        quoted = self.table_uri.removeprefix("file://")
        return quoted, unquote(quoted)


def _checked(address: str, base_directory: str | os.PathLike[str]) -> str:
    """Return the path or URL that the addresses of tables begin with."""
    if is_url(address):
        return address.rstrip("/")
    path = str(Path(base_directory, address).absolute())
    if found := _NOT_IN_PATHS.search(path):
        raise ValueError(f"{path!r} cannot hold Delta tables, because of {found[0]!r}; deltalake does not take it.")
    return path
