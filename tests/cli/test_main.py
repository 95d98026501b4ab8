"""Exit codes and output of the command line."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from metaxy_fs._version import __version__
from metaxy_fs.cli import demo as module
from metaxy_fs.cli.main import main
from metaxy_fs.spec import FeatureGraph
from tests.support.patience import PATIENCE


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "Usage: metaxy-fs" in capsys.readouterr().out


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metaxy-fs {__version__}\n"


def test_help_says_what_is_left_out(capsys):
    assert main(["demo", "--help"]) == 0
    assert "names that begin with a dot" in capsys.readouterr().out


def test_the_default_is_the_current_directory(notes, monkeypatch, capsys):
    monkeypatch.chdir(notes)
    assert main(["demo"]) == 0
    output = capsys.readouterr().out
    assert f"directory  {notes}\n" in output
    assert "demo/files: 2 files, 2 new, 0 changed" in output
    assert (notes / ".metaxy" / "demo.files").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no directory 'nothing'"),
        (["eggs.txt"], "'eggs.txt' is not a directory"),
        ([".", "--root", "."], "is in DIR"),
        ([".", "--root", "sub/kept"], "is in DIR"),
        ([".", "--root", "nope://x"], "nope"),
        (["--nope"], "No such option"),
    ],
)
def test_arguments_without_meaning_exit_with_2(notes, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(notes)
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in notes.iterdir()} == {"eggs.txt", "sub"}


@pytest.mark.parametrize(
    "command", [["verify"], ["compact"], ["repair"], ["vacuum"], ["copy", "--latest"], ["list"], ["status"]]
)
def test_a_root_at_which_there_is_nothing_is_no_root_in_order(tmp_path, capsys, command):
    rest = ["--to-root", str(tmp_path / "target"), "demo/files"] if command[0] == "copy" else []
    assert main([*command, "--root", str(tmp_path / "mispelt"), *rest]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"there is nothing at {tmp_path / 'mispelt'}" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_exits_with_1_and_one_line(notes):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from metaxy_fs.cli.main import main; raise SystemExit(main())", "demo", str(notes)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "metaxy-fs: [Errno 28] No space left on device\n"


def test_a_root_that_fails_exits_with_1_and_one_line(notes, capsys):
    (notes / ".file").touch()
    assert main(["demo", str(notes), "--root", str(notes / ".file")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("metaxy-fs: ")
    assert error.count("\n") == 1


def test_a_bucket_that_refuses_exits_with_1(notes, capsys, bucket, s3_server, s3_bucket):
    s3_server.deny(s3_bucket)
    assert main(["demo", str(notes), "--root", bucket]) == 1
    assert capsys.readouterr().err.startswith("metaxy-fs: ")


def test_a_missing_extra_is_named(notes, capsys, monkeypatch):
    def get_filesystem_class(protocol):
        raise ImportError("Install s3fs")

    monkeypatch.setattr("fsspec.get_filesystem_class", get_filesystem_class)
    assert main(["demo", str(notes), "--root", "s3://bucket/prefix"]) == 1
    assert "metaxy_fs[s3]" in capsys.readouterr().err


def test_an_interrupted_run_exits_with_130_and_says_nothing(notes, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "update_files", interrupt)
    assert main(["demo", str(notes)]) == 130
    assert capsys.readouterr().err == ""


def test_a_ctrl_c_that_is_raised_twice_says_nothing_either(notes, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "update_files", interrupt)
    monkeypatch.setattr("metaxy_fs.cli.main.pause", interrupt)
    assert main(["demo", str(notes)]) == 130
    assert capsys.readouterr().err == ""


def test_nothing_is_declared_for_other_code(notes):
    with FeatureGraph().use() as graph:
        assert main(["demo", str(notes)]) == 0
    assert not graph.specs


def test_a_reader_who_stops_early_sees_no_traceback(notes):
    reading, writing = os.pipe()
    os.close(reading)
    done = run_apart(notes, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_output_of_ascii_takes_any_name(notes):
    (notes / "Größe").write_text("")
    done = run_apart(notes, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert b"Gr\\xf6\\xdfe" in done.stdout
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_sees_bars(notes):
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (25, 80))
    with subprocess.Popen(command(notes), stdout=subprocess.DEVNULL, stderr=writing):
        os.close(writing)
        shown = b"".join(iter(partial(read_of_terminal, reading), b""))
    os.close(reading)
    assert b"hashing" in shown
    assert b"demo/texts" in shown


def read_of_terminal(reading: int) -> bytes:
    """Return what was drawn next, nothing in the end; who draws waits once nobody reads what a terminal keeps."""
    try:
        return os.read(reading, 1 << 16)
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the files that a process has open are not to be seen")
def test_one_ctrl_c_ends_a_run(notes):
    with (notes / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with subprocess.Popen(command(notes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        try:
            wait_until_it_reads(process, notes / "huge")
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=PATIENCE)[1]
        finally:
            process.kill()
    assert (process.returncode, error) == (130, b"")


def wait_until_it_reads(process: subprocess.Popen[bytes], path: Path) -> None:
    """Return once a process has a file open: from then on its main thread waits for those that read."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if descriptor.readlink() == path:
                    return
        time.sleep(0.01)
    raise AssertionError(f"it did not open {path}: {process.poll()}")


def run_apart(directory, *, stdout, stderr=subprocess.PIPE, **variables):
    """Run the demo in a process of its own."""
    return subprocess.run(command(directory), stdout=stdout, stderr=stderr, env=os.environ | variables, check=False)


def command(directory) -> list[str]:
    code = "import sys; from metaxy_fs.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-u", "-c", code, "demo", str(directory)]


def test_the_package_runs_as_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "metaxy_fs", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"metaxy-fs {__version__}\n"
