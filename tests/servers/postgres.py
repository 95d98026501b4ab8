"""A PostgreSQL server for tests: the one of the system, on a free port of loopback, in a directory of its own."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.servers import LOOPBACK
from tests.support.patience import PATIENCE

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_PATIENTLY = ("-w", "-t", str(int(PATIENCE)))
USER, PASSWORD = "metaxy", "hunter2-of-tests"


def programs() -> Path | None:
    """Return the directory of the server's programs, None where it is not installed."""
    found = shutil.which("initdb")
    return Path(found).parent if found else next((place for place in _PLACES if (place / "initdb").exists()), None)


class PostgreSQLServer:
    """A server that runs for as long as the block; PostgreSQL refuses root, so that drops to another user."""

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="metaxy-pg-")
        self._user = _other_user() if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self._directory, self._user.pw_uid, self._user.pw_gid)
        password = Path(self._directory, "password")
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = f"{self._directory}/data"
        self._run(
            "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "-N"
        )
        self._start(data)
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", f"{self._directory}/data", "-m", "immediate", *_PATIENTLY, "stop")
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """The URL of the database that each server has."""
        return f"postgresql://{USER}:{PASSWORD}@{LOOPBACK}:{self._port}/postgres"

    def _start(self, data: str) -> None:
        """Listen on a port that was free a moment ago: whoever takes it first leaves the next one to try."""
        for is_last in (False, False, False, True):
            with socket.create_server((LOOPBACK, 0)) as probe:
                self._port = probe.getsockname()[1]
            options = f"-p {self._port} -h {LOOPBACK} -k {self._directory} -c fsync=off -c max_connections=200"
            with contextlib.nullcontext() if is_last else contextlib.suppress(RuntimeError):
                self._run("pg_ctl", "-D", data, "-o", options, "-l", f"{self._directory}/log", *_PATIENTLY, "start")
                return

    def _run(self, program: str, *arguments: str) -> None:
        user = {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        done = subprocess.run(
            [self._bin / program, *arguments], cwd=self._directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False, text=True, timeout=2 * PATIENCE, **user,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}")


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is no user to run PostgreSQL as")
