"""Work divided into pieces of a few rows."""

from contextlib import contextmanager

import pytest

from metaxy_fs.log import chunks, parquet
from metaxy_fs.metadata_store import pieces, samples


@contextmanager
def tiny_pieces():
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in [
            (pieces, "PIECE_ROWS", 1),
            (pieces, "ROW_GROUP_ROWS", 0),
            (parquet, "ROW_GROUP_ROWS", 2),
            (samples, "ROW_GROUP_ROWS", 2),
            (samples, "RUN_ROWS", 2),
            (chunks, "MAX_FILE_ROWS", 2),
        ]:
            patch.setattr(module, name, value)
        yield
