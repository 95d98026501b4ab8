"""Is an expression a predicate on the rows of a feature?"""

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.spec import FeatureKey


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
        found = pl.LazyFrame(schema=schema).select(predicate).collect_schema()
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
