"""The promises of stores on an S3 service of this machine (moto), with faults between."""

import contextlib
import functools
import json
import logging
import sys
import threading
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
from faulty import KINDS, Faults, Killed
from toy_clock import Clock
from toy_work import Copies

from editkit.batch import lease, ledger, stores
from editkit.batch.catalog import Catalog
from editkit.batch.driver import run_into
from editkit.batch.engines import serial
from editkit.batch.sources import fill_catalog
from editkit.batch.stores import open_store
from editkit.cli import run
from editkit.errors import PictureError, UsageError
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE, fill

s3fs = pytest.importorskip("s3fs", reason="needs editkit[stores]")
server = pytest.importorskip("moto.server", reason="needs moto[server]")

pytestmark = pytest.mark.loopback
CHAIN = Chain.of(Inpaint(mask="box:0,0,7,7")).using(steps=2, seed=5)
SECRET = "sesame-open-the-door"


class FaultyS3(s3fs.S3FileSystem):
    """`s3://`, where `faults` are met."""

    faults = Faults()

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        for name in ("pipe_file", "cat_file"):
            setattr(self, name, functools.partial(self._faulty, getattr(self, name)))

    def _faulty(self, operation, path, *given, **named):
        return self.faults.done(lambda: operation(path, *given, **named), path)


@pytest.fixture(scope="module")
def service():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield f"http://127.0.0.1:{running.get_host_and_port()[1]}"
    running.stop()


@pytest.fixture
def bucket(service, monkeypatch, tmp_path):
    """A bucket of its own, empty."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": service, "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    monkeypatch.setattr(stores, "TRIES", 30)
    monkeypatch.setattr(lease, "time", Clock())
    monkeypatch.setattr(FaultyS3, "faults", Faults())
    fsspec.register_implementation("s3", FaultyS3, clobber=True)
    FaultyS3.clear_instance_cache()
    stores._reader.cache_clear()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    name = f"bucket-{abs(hash(str(tmp_path))) % 10**9}"
    fs.mkdir(name)
    yield name
    FaultyS3.faults = Faults()
    fsspec.register_implementation("s3", s3fs.S3FileSystem, clobber=True)
    FaultyS3.clear_instance_cache()
    stores._reader.cache_clear()


def there(bucket: str, folder: str = "out") -> dict[str, bytes]:
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    return {path.partition(f"/{folder}/")[2]: fs.cat_file(path) for path in fs.find(f"{bucket}/{folder}")}


def results(bucket: str) -> dict[str, bytes]:
    return {name: data for name, data in there(bucket).items() if name.endswith(".png")}


def fill_in(bucket: str, count: int) -> dict[str, bytes]:
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    pictures = {f"p{k}.png": bytes([k + 1]) * 40 for k in range(count)}
    for name, data in pictures.items():
        fs.pipe_file(f"{bucket}/in/{name}", data)
    return pictures


def go(bucket: str, work, resume: bool = False):
    source, target = f"s3://{bucket}/in", f"s3://{bucket}/out"
    with closing(Catalog()) as catalog:
        fill_catalog(catalog, CHAIN, source, target, None, ".png", False)
        with ledger.open_ledger(open_store(target), catalog, {"run": "x"}, resume=resume) as book:
            return run_into(work, catalog, book, serial, target, fresh=not resume)


@pytest.mark.parametrize("seed", range(3))
def test_busy_slow_and_lost_answers_change_nothing(bucket, seed):
    pictures = fill_in(bucket, 6)
    FaultyS3.faults = Faults(seed, often=0.3)
    summary = go(bucket, Copies())
    assert (summary.made, summary.failed) == (6, {})
    met, FaultyS3.faults = FaultyS3.faults.met, Faults()
    assert results(bucket) == pictures
    assert met == set(KINDS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the thread is killed as well
@pytest.mark.parametrize("kill_at", [3, 7, 12, 16])
def test_killed_and_resumed(bucket, kill_at):
    pictures = fill_in(bucket, 3)
    FaultyS3.faults = Faults(kill_at=kill_at, kill_after=bool(kill_at % 2))
    with pytest.raises(Killed):
        go(bucket, Copies())
    FaultyS3.faults = Faults()
    assert results(bucket).items() <= pictures.items()
    summary = go(bucket, Copies(), resume=True)
    assert results(bucket) == pictures
    assert summary.made + summary.before == 3
    lines = [json.loads(line) for line in there(bucket)["editkit-batch.jsonl"].splitlines()]
    assert sorted(line["picture"] for line in lines[1:]) == sorted(pictures)
    assert {name.split("/")[1] for name in there(bucket) if name.startswith(".editkit/")} == {"run.json", "lease"}


def test_the_command_from_bucket_to_bucket_and_secrets_nowhere(bucket, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.DEBUG, "editkit")
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    bad = fill(tmp_path / "in", pictures=6, broken=2)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    for path in Path("in").iterdir():
        fs.pipe_file(f"{bucket}/in/{path.name}", path.read_bytes())
    assert run(["batch", "r.yaml", "in", "out"]) == 1
    words = [f"s3://{bucket}/in", f"s3://{bucket}/out", "--results", "made.jsonl"]
    assert run(["batch", "r.yaml", *words]) == 1
    said = capsys.readouterr()
    assert results(bucket) == {p.name: p.read_bytes() for p in Path("out").glob("*.png")}
    made = [json.loads(line) for line in there(bucket)["made.jsonl"].splitlines()]
    assert {row["picture"] for row in made if row["error"]} == bad
    everything = b"".join(there(bucket).values()).decode("latin-1") + said.err + said.out + caplog.text
    assert SECRET not in everything
    assert "somebody" not in everything


@pytest.mark.parametrize("kind", ["refused", "none"])
def test_credentials_that_are_missing_or_refused_are_said_by_address_alone(bucket, monkeypatch, kind):
    import botocore.exceptions

    def refuse(operation, name):
        if kind == "none":
            raise botocore.exceptions.NoCredentialsError
        raise PermissionError(f"The AWS Access Key Id {SECRET} does not exist")

    fill_in(bucket, 1)
    monkeypatch.setattr(FaultyS3.faults, "done", refuse)
    with pytest.raises(PictureError) as error:
        go(bucket, Copies())
    assert f"s3://{bucket}/out/" in str(error.value)
    assert "access is refused, or no credentials were found" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_bucket_that_is_not_there_or_vanishes(bucket):
    with pytest.raises(UsageError, match="there is no such bucket"):
        go("never-was-there", Copies())
    fill_in(bucket, 2)
    gone, turn = Copies(), threading.Lock()
    real = gone.read

    def read(item):
        opened = real(item)
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        with turn:  # pictures are read by several threads
            while fs.exists(bucket):
                with contextlib.suppress(OSError):  # something was put there after it had been listed
                    fs.rm(bucket, recursive=True)
        return opened

    gone.read = read
    with pytest.raises(PictureError, match=f"s3://{bucket}/out: (is not there any more|this run.s hold was lost)"):
        go(bucket, gone)
