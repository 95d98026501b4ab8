"""A predicate of thousands of terms is looked at term by term, not each term with all before it."""

import time
from functools import reduce
from operator import or_

import polars as pl
import pytest

from metaxy_fs import FeatureGraph, FeatureSpec, MetadataSchemaError
from metaxy_fs.metadata_store.features import require_declaration
from metaxy_fs.metadata_store.selection import selected
from metaxy_fs.spec import FeatureDep


def chain(terms, *others):
    return reduce(or_, (*others, *(pl.col("sample_id") == term for term in range(terms))))


def test_a_chain_of_terms_costs_no_more_than_its_terms():
    specs = [FeatureSpec(key="video"), FeatureSpec(key="faces", deps=[FeatureDep(key="video")])]
    with FeatureGraph.from_specs(specs).use():
        faces = require_declaration("faces")

    def seconds(terms):
        where = chain(terms)
        started = time.process_time()
        assert selected(where, faces, are_given=False) is not None
        return time.process_time() - started

    assert min(seconds(2_000) for _ in range(2)) < 40 * min(seconds(200) for _ in range(3))
    with pytest.raises(MetadataSchemaError, match="one sample at a time"):
        selected(chain(50, pl.col("sample_id") == pl.col("sample_id").max()), faces, are_given=False)
