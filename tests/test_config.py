"""Name stores in a file: what is found, what is opened, and what is refused with its line."""

import sys
from importlib.metadata import EntryPoint

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import (
    Config,
    ConfigError,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    config_file,
    load_config,
)
from metaxy_fs.config import STORE_KINDS

VIDEO = FeatureKey(["video"])
GOOD = """\
default = "dev"
entrypoints = ["pipeline.features"]

[stores.dev]
root = "./.metaxy"
fallback = ["prod"]
fallback_mode = "sample"
compact_after = 50
tags = { user = "${HOME}" }

[stores.prod]
root = "s3://bucket/metadata"
storage_options = { profile = "prod", client_kwargs = { region_name = "eu-central-1" } }
hash_algorithm = "sha256"
cache_dir = "~/cache"
cache_bytes = 1_000_000
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The working directory, which no configuration leads to but that of the test."""
    monkeypatch.delenv("METAXY_FS_CONFIG", raising=False)
    monkeypatch.delenv("METAXY_FS_STORE", raising=False)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def configured(project):
    """Reads a text as the configuration of the project."""

    def read(text: str) -> Config:
        (project / "metaxy_fs.toml").write_text(text, encoding="utf-8")
        return load_config()

    return read


def refusal(read, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value


def write(store, *samples: int) -> None:
    rows = pl.DataFrame({"sample_id": samples, "data_version": [{"default": f"v{sample}"} for sample in samples]})
    with FeatureGraph.from_specs([FeatureSpec(key=VIDEO)]).use():
        store.write_metadata(VIDEO, rows)


def samples(store) -> list[int]:
    return sorted(store.read_metadata(VIDEO)["sample_id"].to_list())


def test_what_the_file_says(configured, project):
    found = configured(GOOD)
    assert found.file == project / "metaxy_fs.toml"
    assert (found.default, found.entrypoints, found.stores) == ("dev", ("pipeline.features",), ("dev", "prod"))


def test_a_file_without_stores_is_one(configured):
    assert configured("").stores == ()


class TestPlace:
    def test_a_file_above_the_working_directory_is_found(self, configured, project, monkeypatch):
        configured("stores.dev.root = './here'")
        (project / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(project / "a" / "b")
        assert load_config().store().location == str(project / "here")

    def test_a_project_file_without_the_table_is_passed_over(self, configured, project, monkeypatch):
        configured("stores.dev.root = './here'")
        (project / "below").mkdir()
        (project / "below" / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120")
        monkeypatch.chdir(project / "below")
        assert load_config().file == project / "metaxy_fs.toml"

    def test_the_table_of_a_project_file_counts(self, project):
        (project / "pyproject.toml").write_text("[tool.metaxy_fs.stores.dev]\nroot = './here'")
        assert load_config().store().location == str(project / "here")

    def test_a_file_of_its_own_goes_before_the_project_file(self, configured, project):
        (project / "pyproject.toml").write_text("[tool.metaxy_fs.stores.dev]\nroot = './there'")
        assert configured("stores.dev.root = './here'").store().location == str(project / "here")

    def test_the_environment_names_another_file(self, configured, tmp_path, monkeypatch):
        configured("stores.dev.root = './here'")
        other = tmp_path / "other.toml"
        other.write_text("stores.dev.root = './there'")
        monkeypatch.setenv("METAXY_FS_CONFIG", str(other))
        assert load_config().store().location == str(tmp_path / "there")

    def test_a_path_goes_before_the_environment(self, tmp_path, monkeypatch):
        other = tmp_path / "other.toml"
        other.write_text("stores.dev.root = './there'")
        monkeypatch.setenv("METAXY_FS_CONFIG", str(tmp_path / "gone.toml"))
        assert load_config(other).file == other

    def test_nothing_found_says_where_it_was_looked_for(self, project, monkeypatch):
        monkeypatch.setattr(config_file, "_FILE", "nowhere.toml")  # the machine may have one above
        monkeypatch.setattr(config_file, "_PROJECT_FILE", "nowhere-either.toml")
        with pytest.raises(ConfigError, match=f"in {project} or a directory above it"):
            load_config()

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.toml: No such file"):
            load_config(tmp_path / "gone.toml")

    def test_a_named_project_file_without_the_table_is_refused(self, project):
        (project / "pyproject.toml").write_text("tool = 1")
        with pytest.raises(ConfigError, match=r"has no table \[tool\.metaxy_fs\]"):
            load_config(project / "pyproject.toml")


class TestStore:
    def test_the_environment_goes_before_the_default(self, configured, monkeypatch, project):
        found = configured("default = 'a'\nstores.a.root = 'a'\nstores.b.root = 'b'")
        assert found.store().location == str(project / "a")
        monkeypatch.setenv("METAXY_FS_STORE", "b")
        assert found.store().location == str(project / "b")
        assert found.store("a").location == str(project / "a")

    def test_without_a_default_the_only_store_is_meant(self, configured, project):
        assert configured("stores.a.root = 'a'").store().location == str(project / "a")
        found = configured("stores.a.root = 'a'\nstores.b.root = 'b'")
        with pytest.raises(ConfigError, match=r"no default store; there are a, b\. Name one"):
            found.store()

    def test_a_store_that_is_not_there_is_refused_with_those_that_are(self, configured):
        with pytest.raises(ConfigError, match=r"no store 'prod'; there are a\."):
            configured("stores.a.root = 'a'").store("prod")

    def test_all_options_reach_the_store(self, configured, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        store = configured(GOOD).store()
        assert (store.fallback_mode, store.tags) == ("sample", {"user": str(tmp_path)})
        [production] = store.fallback_stores
        assert (production.location, production._settings.hash_algorithm) == ("s3://bucket/metadata", "sha256")
        assert production._settings.cache._path.is_relative_to(tmp_path / "cache")

    def test_absolute_roots_stay_as_they_are(self, configured, tmp_path):
        assert configured(f"stores.a.root = '{tmp_path}/elsewhere'").store().location == f"{tmp_path}/elsewhere"

    def test_a_root_that_is_nearly_a_url_does_not_start_at_the_file(self, configured):
        with pytest.raises(ValueError, match="did you mean 's3://bucket/x'"):
            configured("stores.dev.root = 's3//bucket/x'").store()

    def test_variables_of_other_stores_need_not_be_set(self, configured):
        found = configured("stores.a.root = 'a'\n[stores.b]\nroot = 's3://b'\nstorage_options.key = '${NOT_SET_1}'")
        assert found.store("a").list_features() == []
        with pytest.raises(ConfigError, match=r"line 4: stores\.b\.storage_options\.key: the variable 'NOT_SET_1'"):
            found.store("b")

    def test_what_the_store_refuses_is_said_of_its_line(self, configured):
        found = configured("[stores.a]\nroot = 'a'\ncompact_after = 1")
        error = refusal(lambda _: found.store(), "")
        assert (error.line, error.key) == (1, "stores.a")
        assert "compact_after" in str(error)


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("\ndefualt = 'a'", 2, "defualt", "Did you mean 'default'?"),
        ("[stores.a]\nroot = 'a'\n\nroots = 'b'", 4, "stores.a.roots", "Did you mean 'root'?"),
        ("[stores.a]\nroot = 1", 2, "stores.a.root", "Expected `str`, got `int`."),
        ("[stores.a]\nroot = 'a'\nfallback_mode = 'row'", 3, "stores.a.fallback_mode", "Invalid enum value 'row'."),
        ("[stores.a]\nroot = 'a'\ncache_bytes = true", 3, "stores.a.cache_bytes", "Expected `int`, got `bool`."),
        ("[stores.a]\nfallback = []", 1, "stores.a", "the store has no root"),
        ("[stores.a]\nroot = 'a'\nfallback = ['b']", 3, "stores.a.fallback", "there is no store 'b'; there are a."),
        ("default = 'b'\nstores.a.root = 'a'", 1, "default", "there is no store 'b'; there are a."),
        ("[stores]\na = 1", 1, "stores", "Expected `object`, got `int`."),
        ("entrypoints = 'a'", 1, "entrypoints", "Expected `array`, got `str`."),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_line(configured, text, line, key, message):
    error = refusal(configured, text)
    assert (error.line, error.key) == (line, key)
    assert message in str(error)
    assert str(error).startswith(f"{error.file}, line {line}: {key}: ")


def test_a_project_file_gives_lines_of_the_whole_file(project):
    (project / "pyproject.toml").write_text("[project]\nname = 'a'\n[tool.metaxy_fs.stores.a]\nroot = 1")
    with pytest.raises(ConfigError, match=r"line 4: tool\.metaxy_fs\.stores\.a\.root: "):
        load_config()


@pytest.mark.parametrize("text", ["metaxy_fs = 1", "metaxy_fs = 'text'"])
def test_a_table_that_is_none_is_refused(project, text):
    (project / "pyproject.toml").write_text(f"[tool]\n{text}")
    with pytest.raises(ConfigError, match=r"line 2: tool\.metaxy_fs: expected a table"):
        load_config()


def test_text_that_is_no_toml_is_refused(configured):
    assert "is no TOML" in str(refusal(configured, "stores = ["))


@given(
    others=st.lists(
        st.sampled_from(["", "# a comment", "\n", "x_{} = 1", "x_{} = [\n 1,\n 2,\n]", 'x_{} = """\nwrong = 1\n"""']),
        max_size=6,
    ),
    place=st.integers(0, 6),
)
def test_the_line_is_that_of_the_statement(others, place):
    statements = [text.format(number) for number, text in enumerate(others)]
    before = statements[:place]
    text = "\n".join([*before, "wrong = 1", *statements[place:]])
    assert config_file._line(text, ("wrong",)) == sum(statement.count("\n") + 1 for statement in before) + 1


def test_many_ways_between_stores_are_no_circles(configured):
    names = [f"s{number}" for number in range(40)]
    stores = [f"stores.{name} = {{root = '{name}', fallback = {names[n + 1 :]}}}" for n, name in enumerate(names)]
    assert configured("\n".join(stores)).stores == tuple(names)


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcde"), max_size=2), min_size=1))
def test_circles_are_refused_and_nothing_else(tmp_path_factory, edges):
    edges = {name: [to for to in targets if to in edges] for name, targets in edges.items()}
    file = tmp_path_factory.mktemp("circles") / "metaxy_fs.toml"
    file.write_text("\n".join(f"[stores.{name}]\nroot = '{name}'\nfallback = {to}" for name, to in edges.items()))
    reached = {name: set(to) for name, to in edges.items()}
    for _ in edges:
        reached = {name: to.union(*(reached[each] for each in to)) for name, to in reached.items()}
    if any(name in to for name, to in reached.items()):
        with pytest.raises(ConfigError, match="the stores fall back on each other: "):
            load_config(file)
    else:
        assert load_config(file).stores == tuple(edges)


SECRET = "hunter2-wJalrXUtnFEMI"


@pytest.mark.parametrize(
    "statement",
    [
        f"storage_options = {{ secret = '{SECRET}' }}",
        f"storage_options = {{ key = '{SECRET}' }}",
        f"storage_options = {{ client_kwargs = {{ aws_session_token = '{SECRET}' }} }}",
        f"storage_options = {{ tokens = ['{SECRET}'] }}",
        f"storage_options = {{ proxy = 'http://me:{SECRET}@host' }}",
        f"storage_options = {{ proxy = 'http://me:{SECRET}@${{HOST}}' }}",
        f"tags = {{ password = '{SECRET}' }}",
    ],
)
def test_secrets_are_refused_and_never_shown(configured, statement):
    error = refusal(configured, f"[stores.a]\nroot = 's3://bucket'\n{statement}")
    assert error.line == 3
    assert "${NAME_OF_THE_VARIABLE}" in str(error)
    assert SECRET not in f"{error} {error!r} {error.__cause__}"


def test_a_secret_in_a_root_is_refused(configured):
    assert refusal(configured, f"stores.a.root = 'ftp://me:{SECRET}@host/data'").key == "stores.a.root"


@pytest.mark.parametrize(
    "options",
    ["token = 'anon'", "key = '${KEY}'", "headers = { authorization = 'Bearer ${TOKEN}' }", "anon = true"],
)
def test_what_is_no_secret_is_taken(configured, options):
    assert configured(f"stores.a.root = 's3://b'\nstores.a.storage_options = {{ {options} }}").stores == ("a",)


class TestKinds:
    @pytest.fixture
    def kind(self, monkeypatch):
        """Registers a kind of store under the name `memory`."""

        def register(make):
            entry = EntryPoint(name="memory", value="nowhere:make", group=STORE_KINDS)
            monkeypatch.setattr(EntryPoint, "load", lambda self: make)
            monkeypatch.setattr(
                "importlib.metadata.entry_points", lambda group: [entry] if group == entry.group else []
            )

        return register

    def test_a_store_of_another_kind_takes_part_in_chains(self, configured, kind):
        made = {}

        def make(*, color, fallback_stores, tags=None):
            made.update(color=color, tags=tags)
            return InMemoryMetadataStore(fallback_stores=fallback_stores)

        kind(make)
        found = configured(
            "[stores.a]\nkind = 'memory'\ncolor = 'red'\nfallback = ['b']\ntags = {x = 'y'}\n[stores.b]\nroot = 'b'"
        )
        write(found.store("b"), 1, 2)
        assert samples(found.store("a")) == [1, 2]
        assert made == {"color": "red", "tags": {"x": "y"}}

    def test_an_option_that_it_does_not_take_is_refused(self, configured, kind):
        kind(InMemoryMetadataStore)
        found = configured("[stores.a]\nkind = 'memory'\nhash_algorithms = 'sha256'")
        with pytest.raises(ConfigError, match=r"line 3: stores\.a\.hash_algorithms: .* mean 'hash_algorithm'\?"):
            found.store()

    def test_an_option_that_it_needs_is_asked_for(self, configured, kind):
        kind(lambda color, **others: InMemoryMetadataStore())
        with pytest.raises(ConfigError, match=r"line 2: stores\.a\.kind: .* needs the key 'color'"):
            configured("[stores.a]\nkind = 'memory'").store()

    def test_a_kind_that_nobody_knows_is_refused(self, configured, kind):
        kind(InMemoryMetadataStore)
        with pytest.raises(ConfigError, match=r"line 2: stores\.a\.kind: .*known are memory\."):
            configured("[stores.a]\nkind = 'duckdb'").store()


class TestFeatures:
    @pytest.fixture(autouse=True)
    def apart(self, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        before = set(sys.modules)
        with FeatureGraph().use():
            yield
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def test_modules_beside_the_file_are_imported(self, configured, project):
        (project / "declared_here").mkdir()
        (project / "declared_here" / "features.py").write_text(
            "from metaxy_fs import Feature, FeatureKey, FeatureSpec\n"
            "class Video(Feature, spec=FeatureSpec(key=FeatureKey(['video']))): pass\n"
        )
        assert "video" in configured("entrypoints = ['declared_here.features']").import_features()

    @pytest.mark.parametrize("module", ["nowhere_at_all", "nowhere_at_all.features"])
    def test_a_module_that_is_not_there_is_refused(self, configured, module):
        found = configured(f"\nentrypoints = ['{module}']")
        with pytest.raises(ConfigError, match=r"line 2: entrypoints: there is no module 'nowhere_at_all'"):
            found.import_features()

    def test_what_a_module_lacks_is_an_error_of_that_module(self, configured, project):
        (project / "lacks_something.py").write_text("import nowhere_at_all")
        with pytest.raises(ConfigError, match=r"ModuleNotFoundError: No module named 'nowhere_at_all' \(.*, line 1\)"):
            configured("entrypoints = ['lacks_something']").import_features()


@pytest.fixture
def environments(s3_server, s3_bucket, gcs_server, gcs_bucket):
    """The servers and buckets of two environments."""
    return s3_server, s3_bucket, gcs_server, gcs_bucket


def test_two_environments_on_buckets_and_a_disk(configured, monkeypatch, environments):
    s3_server, s3_bucket, gcs_server, gcs_bucket = environments
    found = configured(
        f"""
        default = "dev"
        [stores.dev]
        root = "./dev"
        fallback = ["prod", "archive"]
        [stores.prod]
        root = "s3://${{BUCKET}}/metadata"
        storage_options = {{ key = "${{KEY}}", secret = "${{SECRET}}", endpoint_url = "{s3_server.endpoint}" }}
        [stores.archive]
        root = "gs://{gcs_bucket}"
        fallback_mode = "sample"
        fallback = ["prod"]
        storage_options = {{ token = "anon", project = "test", endpoint_url = "{gcs_server.endpoint}" }}
        """
    )
    for name, value in {"BUCKET": s3_bucket, "KEY": "test", "SECRET": "test"}.items():
        monkeypatch.setenv(name, value)
    write(found.store("prod"), 1, 2)
    write(found.store("archive"), 3)
    assert samples(FilesystemMetadataStore(s3_server.url(s3_bucket, "metadata"), **options(s3_server))) == [1, 2]
    assert samples(FilesystemMetadataStore(gcs_server.url(gcs_bucket), **options(gcs_server))) == [3]
    assert samples(found.store()) == [1, 2]
    assert samples(found.store("archive")) == [1, 2, 3]
    write(found.store(), 4)
    assert samples(found.store("dev")) == [4]
    assert samples(found.store("prod")) == [1, 2]


def options(server):
    return {"storage_options": server.storage_options}


def test_a_store_that_a_chain_reaches_twice_is_opened_once(configured):
    store = configured(
        "[stores.a]\nroot = 'a'\nfallback = ['b', 'c']\n[stores.b]\nroot = 'b'\nfallback = ['c']\n"
        "[stores.c]\nroot = 'c'"
    ).store("a")
    assert store.fallback_stores[0].fallback_stores[0] is store.fallback_stores[1]
