"""`metaxy-fs repair`: what it prints of damaged and lost manifests."""

import pytest

from metaxy_fs.cli.main import main


@pytest.fixture
def manifest(notes, demo):
    """The manifest of the only commit of texts."""
    demo()
    [path] = (notes / ".metaxy").glob("demo.texts/*/_manifests/appends/*.json")
    return path


def repair(root, *options):
    return main(["repair", "--root", str(root), *options])


def test_a_sound_root_exits_with_0(notes, manifest, capsys):
    assert repair(notes / ".metaxy") == 0
    assert capsys.readouterr().out == "nothing is damaged or lost\n"


def test_a_damaged_manifest_is_made_again_only_when_asked_to(notes, manifest, capsys):
    content = manifest.read_bytes()
    manifest.write_bytes(content[:9])

    assert repair(notes / ".metaxy") == 1
    assert manifest.read_bytes() == content[:9]
    first, counts, hint = capsys.readouterr().out.splitlines()
    assert first.startswith(f"restorable {manifest.relative_to(notes / '.metaxy')} (2 rows, {manifest.stem}): ")
    assert (counts, hint) == ("1 restorable", "Nothing was changed; --yes does it.")

    assert repair(notes / ".metaxy", "--yes") == 0
    assert manifest.read_bytes() == content
    assert main(["verify", "--root", str(notes / ".metaxy")]) == 0


def test_a_lost_manifest_needs_somebody_to_vouch_for_it(notes, manifest, capsys):
    content = manifest.read_bytes()
    manifest.unlink()

    assert repair(notes / ".metaxy", "--yes") == 0
    assert not manifest.exists()
    assert capsys.readouterr().out.startswith("unproven ")
    assert repair(notes / ".metaxy", "--yes", "--vouch", manifest.stem) == 0
    assert manifest.read_bytes() == content


def test_what_cannot_be_made_again_exits_with_1(notes, manifest, capsys):
    manifest.write_bytes(b"")
    for path in (notes / ".metaxy").glob("demo.texts/*/*.parquet"):
        path.unlink()
    assert repair(notes / ".metaxy", "demo/texts", "--yes") == 1
    assert capsys.readouterr().out.startswith("lost ")


def test_vouching_for_nothing_exits_with_1(notes, manifest, capsys):
    assert repair(notes / ".metaxy", "--vouch", "x") == 1
    assert "no lost commit" in capsys.readouterr().err
