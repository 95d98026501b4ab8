"""Check the arguments that name features, and those that are flags."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError, MetaxyError, SpecError, add_facts
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.metadata_store.arrow import kind_of
from metaxy_fs.spec import Feature, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.feature import without_spec
from metaxy_fs.spec.keys import named_key
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version


def flag(value: object, *, name: str, others: str = "") -> bool:
    """Require a bool: a truthy string such as "no" must not be read as True.

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


def check_predicate(predicate: pl.Expr, schema: pl.Schema, *, name: str, key: FeatureKey) -> None:
    """Refuse an expression that is not true or false of each row.

    Args:
        predicate: The expression.
        schema: The columns of the rows.
        name: What users call the argument.
        key: Whose rows they are.

    Raises:
        MetadataSchemaError: It does not fit the columns, or says something else.
    """
    try:
        checked = pl.LazyFrame(schema=schema).select(predicate)
        found = checked.collect_schema()
        checked.collect()  # Polars compares numbers with strings in schemas, and refuses it where there are rows
    except pl.exceptions.PolarsError as error:
        problem = str(error).partition("\n")[0]
        raise MetadataSchemaError(
            f"{name} cannot be evaluated on rows of feature '{key}' ({type(error).__name__}: {problem}): {predicate}. "
            f"The columns are {dict(schema)}."
        ) from error
    if found.len() != 1:
        raise MetadataSchemaError(
            f"{name} is one predicate for each row, but {predicate} are {found.len()} on rows of feature '{key}': "
            "combine them with pl.all_horizontal or pl.any_horizontal."
        )
    [dtype] = found.dtypes()
    if dtype not in (pl.Boolean, pl.Unknown):
        raise MetadataSchemaError(
            f"{name} is true or false of each row of feature '{key}', but {predicate} is {dtype}: compare it, as in "
            "pl.col('status') == 'failed'."
        )


_S = TypeVar("_S")
_F = TypeVar("_F", bound="Declared | FeatureKey")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def about_feature(
    function: Callable[Concatenate[_S, _F, _P], _R],
) -> Callable[Concatenate[_S, _F, _P], _R]:
    """Have the errors of a function of a store and a feature name the feature."""

    @wraps(function)
    def named(store: _S, feature: _F, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(store, feature, *args, **kwargs)
        except MetaxyError as error:
            key = feature if isinstance(feature, FeatureKey) else feature.key
            add_facts(error, feature=key.dotted)
            raise

    return named


FeatureLike = type[Feature] | FeatureKey | str
"""What stores take as a feature: a class, or a key that is looked up in the active graph, or the text of a key."""


class Declared(msgspec.Struct, frozen=True):
    """A feature whose declaration is known, and the frozen graph that it is part of."""

    spec: FeatureSpec
    graph: FeatureGraph

    @property
    def key(self) -> FeatureKey:
        return self.spec.key

    @property
    def definition(self) -> DefinitionVersion:
        return definition_version(self.graph, self.spec.key)


def find_declaration(feature: FeatureLike) -> Declared | FeatureKey:
    """Return the declaration of a feature, or the bare key if the active graph holds none.

    Raises:
        TypeError: The argument is neither a class nor a key nor a text.
        SpecError: The text names no key, or the feature was declared again since, or no longer fits what was declared
            again upstream.
    """
    if isinstance(feature, FeatureKey | str):
        key, graph = named_key(FeatureKey, feature, what="A feature"), FeatureGraph.active().frozen()
        spec = graph.find(key)
        return key if spec is None else Declared(spec, graph)
    if isinstance(feature, type) and issubclass(feature, Feature) and feature is not Feature:
        return _of_class(feature)
    raise TypeError(
        "A feature is a class derived from Feature, a FeatureKey, or a text such as 'video/frames'; got "
        f"{kind_of(feature)}."
    )


def key_of(feature: FeatureLike) -> FeatureKey:
    """Return the key of a feature, declared or not.

    Raises:
        TypeError: The argument is neither a class nor a key nor a text.
        SpecError: The text names no key.
    """
    found = find_declaration(feature)
    return found if isinstance(found, FeatureKey) else found.key


def keys_of(features: object) -> list[FeatureKey]:
    """Return the keys of several features, declared or not; raises what `declarations_of` does."""
    return [found if isinstance(found, FeatureKey) else found.key for found in declarations_of(features)]


def declarations_of(features: object) -> list[Declared | FeatureKey]:
    """Return the declarations of several features, or the bare keys of those that the active graph does not hold.

    Raises:
        TypeError: The argument is none, or something in it is neither a class nor a key nor a text.
    """
    if isinstance(features, str | type) or not isinstance(features, Iterable):
        raise TypeError(
            f"features takes a list of classes derived from Feature, of keys or of texts; got {features!r}."
        )
    return [find_declaration(feature) for feature in features]


def require_declaration(feature: FeatureLike) -> Declared:
    """Return the declaration of a feature.

    Raises:
        SpecError: The active graph does not hold the key.
        ForkedProcessError: What is asked for would hang in this process.
    """
    refuse_lost_threads()
    found = find_declaration(feature)
    if isinstance(found, FeatureKey):
        raise SpecError(
            f"The active graph has no feature '{found}', and what is asked for needs its declaration."
            f"{FeatureGraph.active().did_you_mean(found)} Pass the Feature class, or make its graph active: "
            "`with graph.use():`."
        )
    return found


def _of_class(feature: type[Feature]) -> Declared:
    if "spec" not in vars(feature):
        raise SpecError(without_spec(feature))
    graph = feature.graph.frozen()
    if graph.find(feature.spec.key) != feature.spec:
        raise SpecError(
            f"The class {feature.__module__}.{feature.__qualname__} was declared again with another spec, and this is "
            "the earlier one. Use the new class: import it again, or run again what took the earlier one."
        )
    return Declared(feature.spec, graph)
