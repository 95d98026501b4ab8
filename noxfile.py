"""Run every check of the project.

`nox` runs all of them, `nox -s quick` the tests that take seconds, and `nox -s tests -- -k chain` hands what follows
the dashes to pytest.
Python 3.11 and pip are enough.
"""

from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "layers", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the suite."""
    install(session, "tests", extras="all,testing")
    run_suite(session)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the suite with branch coverage, child processes included: almost twice the time of `tests`."""
    install(session, "tests", extras="all,testing")
    run_suite(session, "--cov")


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Run the tests of single modules, without servers: less than a minute on two cores."""
    install(session, "tests", extras="all,testing")
    session.run("python", "-m", "pytest", "--quick", "--numprocesses", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Find what the linter finds, and what is not formatted."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package's types, strictly."""
    install(session, "types", extras="all,testing")
    session.run("mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports go down the layers only."""
    install(session, "layers")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site and its API reference; a warning is an error."""
    install(session, "docs")  # the pictures are drawn by the package
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # an advertisement, not a warning about these pages
    session.run("mkdocs", "build", "--strict", "--config-file", "docs/_config/mkdocs.yml")


@nox.session(default=False)
def floors(session: nox.Session) -> None:
    """Run the suite with the lower bound of every dependency."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    of_extras = [bound for name in ("cli", "s3", "gcs", "obstore") for bound in extras[name]]
    bounded = [*PYPROJECT["project"]["dependencies"], *of_extras]
    install(session, "tests", *(bound.replace(">=", "==") for bound in bounded), extras="all,testing")
    run_suite(session)


@nox.session(default=False)
def newest(session: nox.Session) -> None:
    """Run the suite with the newest version of everything, pre-releases included."""
    eagerly = ("--upgrade", "--upgrade-strategy", "eager", "--pre")
    session.install(*eagerly, "--editable", ".[all,testing]", *group("tests"))
    run_suite(session)


@nox.session(default=False, python=nox.project.python_versions(PYPROJECT))
def pythons(session: nox.Session) -> None:
    """Run the suite with each Python that the classifiers name, and that is there."""
    install(session, "tests", extras="all,testing")
    run_suite(session)


@nox.session(default=False)
def daft(session: nox.Session) -> None:
    """Run the example of Daft, in an environment without what the other tests need."""
    install(session, "daft")
    session.run("python", "-m", "pytest", "--noconftest", "tests/engines/test_daft.py", *session.posargs)


@nox.session(default=False)
def spark(session: nox.Session) -> None:
    """Run the tests of what Spark reads; needs Java 17."""
    install(session, "spark", extras="all,testing")
    session.run("python", "-m", "pytest", "tests/engines/test_spark.py", "--soak", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Run the tests of trust with the numbers that docs/reliability.md states; takes the better part of an hour."""
    install(session, "tests", extras="all,testing")
    soaked = ("tests/trust", "tests/metadata_store/test_concurrency.py")
    session.run("python", "-m", "pytest", *soaked, "--soak", "--capture=no", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the package beside its peers, which get an environment of their own; `-- --smoke` takes seconds."""
    install(session, "tests", extras="all")
    peers = Path(session.create_tmp(), "peers")
    python = str(peers / "bin" / "python")
    if not peers.exists():
        session.run("python", "-m", "venv", str(peers))
    session.run(python, "-m", "pip", "install", "--quiet", *group("bench"), external=True)
    session.run("python", "-m", "tests.benchmarks", "--peers", python, *session.posargs)


def install(session: nox.Session, name: str, *requirements: str, extras: str = "") -> None:
    """Install the package, editable, together with a dependency group, so that one resolution satisfies both."""
    session.install("--editable", f".[{extras}]" if extras else ".", *group(name), *requirements)


def run_suite(session: nox.Session, *options: str) -> None:
    """Run pytest in the session's environment, in two processes."""
    # A process that has no test left takes some of the other's: the slowest are hundreds of times the median.
    parallel = ("--numprocesses", "2", "--dist", "worksteal")
    session.run("python", "-m", "pytest", *options, *parallel, *session.posargs)


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, name))
