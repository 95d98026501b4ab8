"""The suite of tests that every `MetadataStore` passes.

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def make_store(self, tmp_path):
            return lambda name="", fallback_stores=(): MyStore(tmp_path / f"r{name}", fallback_stores=fallback_stores)

A store whose rows end with the object that wrote them sets `persistent = False`.
"""

from metaxy_fs.testing.store_buffers import StoreBuffers
from metaxy_fs.testing.store_carried import StoreCarried
from metaxy_fs.testing.store_chains import StoreChains
from metaxy_fs.testing.store_clocks import StoreClocks
from metaxy_fs.testing.store_code_changes import StoreCodeChanges
from metaxy_fs.testing.store_commits import StoreCommits
from metaxy_fs.testing.store_content import StoreContent
from metaxy_fs.testing.store_increments import StoreIncrements
from metaxy_fs.testing.store_materialize import StoreMaterialize
from metaxy_fs.testing.store_moments import StoreMoments
from metaxy_fs.testing.store_plan import StorePlan
from metaxy_fs.testing.store_prepared import StorePrepared
from metaxy_fs.testing.store_questions import StoreQuestions
from metaxy_fs.testing.store_reads import StoreReads
from metaxy_fs.testing.store_rebase import StoreRebase
from metaxy_fs.testing.store_redo import StoreRedo
from metaxy_fs.testing.store_retired import StoreRetired
from metaxy_fs.testing.store_tags import StoreTags
from metaxy_fs.testing.store_trace import StoreTrace
from metaxy_fs.testing.store_types import StoreTypes
from metaxy_fs.testing.store_versions import StoreVersions
from metaxy_fs.testing.store_writes import StoreWrites


class StoreSuite(
    StoreWrites,
    StoreTypes,
    StoreBuffers,
    StoreReads,
    StoreCommits,
    StoreMoments,
    StoreChains,
    StoreQuestions,
    StoreVersions,
    StoreIncrements,
    StoreCarried,
    StoreMaterialize,
    StoreContent,
    StoreCodeChanges,
    StoreRebase,
    StoreRedo,
    StoreTags,
    StoreRetired,
    StoreClocks,
    StorePlan,
    StorePrepared,
    StoreTrace,
):
    """Tests of one kind of store; each test opens fresh ones through the fixture `make_store`, see `StoreCase`."""
