"""The same graphs in metaxy, through its public interface.

Its hash is sha256, as ours: in DuckDB that is a function of the database, since others come in an extension that has
to be downloaded.
"""

import shutil
import time
from pathlib import Path
from typing import Any, Literal

import ibis
import metaxy as mx
import polars as pl
from metaxy.ext.duckdb import DuckDBMetadataStore
from metaxy.ext.polars.handlers.delta import DeltaMetadataStore
from metaxy.utils import collect_to_polars

from tests.benchmarks.data import ID, Graph, leaf_containers, rewritten, root_containers, root_rows

Kind = Literal["duckdb", "delta"]
VERSION = "metaxy_provenance_by_field"


@ibis.udf.scalar.builtin
def sha256(text: str) -> str:
    """DuckDB's own function."""
    raise NotImplementedError(text)


class OfflineDuckDB(DuckDBMetadataStore):
    """DuckDB without an extension."""

    def _load_extensions(self) -> None:
        pass

    def _create_hash_functions(self) -> Any:
        functions = super()._create_hash_functions()
        functions[mx.HashAlgorithm.SHA256] = lambda column: sha256(column.cast(str))
        return functions


def seed(*, root: str, kind: Kind, graph: Graph, rows: int) -> dict[str, Any]:
    """Write the root features below `new`; below `stale` the leaf as well, then a tenth of the first root again."""
    features, roots, leaf = declare(graph)
    new, stale = Path(root, "new"), Path(root, "stale")
    with features.use():
        with open_store(kind, new) as store:
            for name, feature in roots.items():
                store.write(feature, root_rows(graph, name, rows=rows, version_column=VERSION))
        shutil.copytree(new, stale)
        with open_store(kind, stale) as store:
            store.write(leaf, collect_to_polars(store.resolve_update(leaf).new))
            frame = root_rows(graph, "root_0", rows=rows, version_column=VERSION)
            store.write(roots["root_0"], rewritten(frame, version_column=VERSION))
    return {}


def resolve(*, root: str, kind: Kind, graph: Graph) -> dict[str, Any]:
    """Find what has to be computed; to open the store is not counted."""
    features, _, leaf = declare(graph)
    with features.use(), open_store(kind, Path(root)) as store:
        start = time.perf_counter()
        increment = store.resolve_update(leaf)
        new, stale = _rows(increment.new), _rows(increment.stale)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "new": new.height, "stale": stale.height}


def open_store(kind: Kind, root: Path) -> Any:
    """Return a context manager that opens a store for writing."""
    root.mkdir(parents=True, exist_ok=True)
    mx.MetaxyConfig.set(mx.MetaxyConfig())
    options: Any = {"auto_create_tables": True, "hash_algorithm": mx.HashAlgorithm.SHA256}
    if kind == "duckdb":
        return OfflineDuckDB(database=str(root / "bench.duckdb"), **options).open("w")
    return DeltaMetadataStore(root_path=str(root / "delta"), **options).open("w")


def declare(graph: Graph) -> tuple[Any, dict[str, Any], Any]:
    """Return the graph, its root features by name, and the leaf."""
    features = mx.FeatureGraph()
    with features.use():
        roots = {
            name: _feature(_spec(name, [mx.FieldSpec(key=key, code_version="1") for key in containers]))
            for name, containers in root_containers(graph).items()
        }
        fields = [
            mx.FieldDep(feature=root, fields=[field.key for field in root.spec().fields]) for root in roots.values()
        ]
        leaves = [mx.FieldSpec(key=key, code_version="1", deps=fields) for key in leaf_containers(graph)]
        leaf = _feature(_spec("leaf", leaves, deps=[mx.FeatureDep(feature=root) for root in roots.values()]))
    return features, roots, leaf


def _spec(name: str, fields: list[Any], **options: Any) -> Any:
    return mx.FeatureSpec(key=f"bench/{name}", id_columns=[ID], fields=fields, **options)


def _feature(declared: Any) -> Any:
    class Declared(mx.BaseFeature, spec=declared):
        sample_uid: int

    return Declared


def _rows(lazy: Any) -> pl.DataFrame:
    frame: pl.DataFrame = collect_to_polars(lazy)
    return frame
