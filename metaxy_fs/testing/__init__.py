"""How does a third party show that its storage or store keeps the promises that metaxy_fs relies on?

Subclass a suite in a test module and give it the fixture that it asks for; pytest does the rest. `Simulation` lets
several processes take turns on one `SteppedStorage` each, request by request, as a test decides. `FaultyStorage` lets
the requests to any storage fail.
"""

from metaxy_fs.testing.faults import Fault, Faults, random_faults
from metaxy_fs.testing.faulty_storage import FaultyStorage
from metaxy_fs.testing.simulation import Host, KilledError, Process, Simulation
from metaxy_fs.testing.stepped_storage import Bucket, Ending, Request, SteppedStorage
from metaxy_fs.testing.storage_cases import Bypass
from metaxy_fs.testing.storage_suite import StorageSuite
from metaxy_fs.testing.store_suite import StoreSuite

__all__ = [
    "Bucket",
    "Bypass",
    "Ending",
    "Fault",
    "Faults",
    "FaultyStorage",
    "Host",
    "KilledError",
    "Process",
    "Request",
    "Simulation",
    "SteppedStorage",
    "StorageSuite",
    "StoreSuite",
    "random_faults",
]
