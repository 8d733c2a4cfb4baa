"""Collections on a Ray cluster of two nodes on this machine: one machine's texts, each once, whatever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import collection_outputs
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import Result
from collection_outputs import texts_of
from conftest import F32, ROOT

from blip_model import OVBlipModel
from blip_openvino.apps.blip import Blip
from blip_openvino.apps.collections import cluster
from blip_openvino.apps.collections.cluster import count_done, run_on_cluster
from blip_openvino.apps.collections.pipeline import Run
from blip_openvino.apps.collections.sinks import COLUMNS
from blip_openvino.apps.collections.sources import find_items
from blip_openvino.apps.collections.worker import ID, Job
from blip_openvino.data.easy_vqa import load_captions

IMAGES, BAD = 500, 20
BEGUN = 40
"""How many the run did that several tests go on from."""
PATIENCE = 900
"""Seconds after which something is not coming any more; Ray has taken over 300 to place a worker again."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "200000",  # a busy machine starts Ray's processes slowly
    "PYTHONPATH": str(ROOT),
}
DRIVER = """
from blip_openvino.apps.collections import cluster
from blip_openvino.apps.cli import main

cluster.ROWS_AT_ONCE, cluster.PART_ROWS = 16, 32  # so that there is something to lose
main()
"""

USES = """
import sys
import ray

ray.init(sys.argv[1])
assert ray.get(ray.remote(lambda: "done").remote(), timeout=60) == "done"
"""
"""Fails where a machine has no cluster that does something: its tests are skipped there, and say so."""


class TwoNodes:
    """A cluster whose second node can be killed."""

    def __init__(self):
        from ray.cluster_utils import Cluster  # Ray, which reads the environment as it is imported

        options = {"num_cpus": 2, "memory": 4 << 30}
        head = {**options, "node_ip_address": "127.0.0.2", "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.options = {**options, "node_ip_address": "127.0.0.3"}
        self.add_second()

    @property
    def address(self) -> str:
        return self.cluster.address

    def add_second(self) -> None:
        self.second = self.cluster.add_node(**self.options)

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def workers(self, node) -> list[int]:
        """Processes of a node that have a model."""
        (raylet,) = node.all_processes["raylet"]
        return [
            int(each.name)
            for each in Path("/proc").glob("[0-9]*")
            if read(each / "cmdline").startswith("ray::MapWorker(MapBatches")
            and read(each / "stat").rpartition(")")[2].split()[1] == str(raylet.process.pid)
        ]


def read(path: Path) -> str:
    """A file of /proc, empty where the process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}.items():
            patch.setenv(name, value)
        try:
            nodes = TwoNodes()
        except Exception as error:  # of many kinds
            pytest.skip(f"Ray cannot start two nodes on this machine: {error}")
        used = ["timeout", "180", sys.executable, "-c", USES, nodes.address]
        done = subprocess.run(used, capture_output=True, text=True)
        if done.returncode:
            nodes.cluster.shutdown()
            pytest.skip(f"Ray does nothing on this machine: {done.stderr.strip()[-500:]}")
        yield nodes
        nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, converted) -> Iterator[dict[str, str | None]]:
    """The current folder has `photos`; the texts of one machine by path, None for those that are damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP_MODEL", str(converted))
        patch.chdir(tmp_path_factory.mktemp("work"))
        Path("photos").mkdir()
        for number, path in zip(range(IMAGES), load_captions("test"), strict=False):
            if number % (IMAGES // BAD) == 7:
                Path(f"photos/{number:03}.png").write_bytes(b"no image")
            else:
                shutil.copy(path, f"photos/{number:03}.png")
        assert run("--output", "alone").exit_code == 1
        texts = texts_of("alone")
        assert len(texts) == IMAGES
        assert list(texts.values()).count(None) == BAD
        yield texts


@pytest.fixture(scope="module")
def begun(nodes, photos) -> Result:
    """What a run said that did the first of the photos, into `begun`."""
    return run("--cluster", nodes.address, "--output", "begun", "--limit", BEGUN)


def begin(output: str) -> None:
    """Put there what that run wrote."""
    for suffix in ("", ".checkpoint"):
        shutil.copytree(f"begun{suffix}", f"{output}{suffix}")
    shutil.copy("begun.run.json", f"{output}.run.json")


@pytest.fixture
def gate(photos) -> Iterator[Callable[[], None]]:
    """One of the photos is there when this is called: until then whoever reads it waits, and a run cannot end."""
    path, picture, pipe = Path("photos/100.png"), Path("picture"), Path("pipe")
    shutil.copy(path, picture)
    os.mkfifo(pipe)
    path.unlink()
    os.link(pipe, path)

    def open_gate() -> None:
        shutil.copy(picture, "copy")
        os.replace("copy", path)
        try:
            end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody waits
            return
        os.write(end, picture.read_bytes())
        os.close(end)

    yield open_gate
    open_gate()
    pipe.unlink()


COMMAND = ("caption", "photos", "--inference-precision", "f32")


def run(*options: object) -> Result:
    return collection_outputs.run(*COMMAND, *options)


def start(*options: str) -> subprocess.Popen:
    """The same in a process that can be killed."""
    command = [sys.executable, "-c", DRIVER, *COMMAND, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], driver: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert driver is None or driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def first(count: int, photos: dict[str, str | None]) -> dict[str, str | None]:
    return dict(list(photos.items())[:count])


def parts_done(output: str) -> int:
    return sum(not file.name.endswith(".pending.parquet") for file in Path(f"{output}.checkpoint").glob("*.parquet"))


def test_a_cluster_writes_what_one_machine_does_and_the_next_run_finds_it_done(nodes, photos, begun):
    assert (begun.exit_code, begun.stdout[:10]) == (1, "40 done in"), begun.output
    assert texts_of("begun") == first(BEGUN, photos)
    begin("out")
    options = ("--cluster", nodes.address, "--output", "out")
    result = run(*options, "--limit", 200)
    assert (result.exit_code, result.stdout[:11]) == (1, "160 done in"), result.output
    assert "40 found done, errors: 8" in result.stdout
    assert "40 found done, errors among them: 2" in result.stderr
    table = pyarrow.parquet.read_table("out")
    alone = pyarrow.parquet.read_table("alone").sort_by("path")
    assert table.column_names == [*COLUMNS["caption"], ID]
    assert table.drop_columns(ID).sort_by("path").equals(alone.slice(0, 200))
    for other, message in (
        (("--output", "out"), "with parts 'Ray Data', not None: give another"),
        (("--cluster", nodes.address, "--output", "alone"), "with parts None, not 'Ray Data': give another"),
        ((*options, "--prompt", "a red"), "give another --output, or --overwrite"),
    ):
        result = run(*other)
        assert (result.exit_code, message in result.stderr) == (1, True)


def test_questions_of_a_table_with_images_and_paths_are_answered_as_on_one_machine(nodes, photos):
    good = [path for path, text in photos.items() if text][:3]
    images = [{"bytes": Path(path).read_bytes(), "path": None} for path in good]
    images += [{"bytes": None, "path": path} for path in [*good, os.path.abspath("gone.png"), ""]]
    questions = ("what shape is it?", "is it red?", "is it red?" * 600)
    rows = [{"image": image, "text": question} for image in images for question in questions]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "pairs.parquet")
    arguments = ("ask", "--table", "pairs.parquet", "--question-column", "text", "--inference-precision", "f32")
    for options in (("--output", "answers"), ("--output", "answers-cluster", "--cluster", nodes.address)):
        assert collection_outputs.run(*arguments, *options).exit_code == 1
    found, expected = map(pyarrow.parquet.read_table, ("answers-cluster", "answers"))
    order = [("path", "ascending"), ("question", "ascending")]
    assert found.drop_columns(ID).sort_by(order).equals(expected.sort_by(order))
    assert found.num_rows == len(set(found["id"].to_pylist())) == len(rows)


def test_killed_workers_a_killed_driver_and_a_killed_node_lose_nothing(nodes, photos, gate):
    options = ("--cluster", nodes.address, "--output", "killed")
    driver = start(*options)
    wait_for(lambda: parts_done("killed") and nodes.workers(nodes.second), driver)
    killed = {pid for node in (nodes.cluster.head_node, nodes.second) for pid in nodes.workers(node)}
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: set(nodes.workers(nodes.second)) - killed, driver)
    driver.kill()
    driver.communicate(timeout=PATIENCE)
    wait_for(lambda: not nodes.workers(nodes.second))
    found, failed = count_done(Path("killed"), Path("killed.checkpoint"), 1)
    assert 0 < found < IMAGES
    driver = start(*options)
    wait_for(lambda: nodes.workers(nodes.second), driver)
    nodes.kill_second()
    gate()
    try:
        output, errors = driver.communicate(timeout=PATIENCE)
    finally:
        nodes.add_second()
    assert driver.returncode == 1, errors
    assert f"{IMAGES - found} done in" in output, errors
    assert f"{found} found done, errors among them: {failed}" in errors
    assert texts_of("killed") == photos


def test_a_part_that_was_being_written_anew_is_done_again(nodes, photos, begun):
    begin("anew")
    (ids,) = Path("anew.checkpoint").glob("*.parquet")
    shutil.copy(ids, ids.with_suffix(".pending.parquet"))
    (part,) = Path("anew").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    options = ("--cluster", nodes.address, "--output", "anew", "--limit", BEGUN)
    assert run(*options).stdout.startswith("40 done")
    assert texts_of("anew") == first(BEGUN, photos)
    next(Path("anew").glob("*.parquet")).unlink()
    result = run(*options)
    assert (result.exit_code, "do not belong together" in result.stderr) == (1, True)
    assert run(*options, "--overwrite").stdout.startswith("40 done")
    assert len(texts_of("anew")) == 40


def test_a_node_without_the_folder_gets_it_from_the_object_store(nodes, photos, converted, ours, monkeypatch):
    folder = shutil.copytree(converted, "model")
    job = Job.of(Run(Blip(OVBlipModel.from_pretrained(folder, "CPU", ov_config=F32), ours), "caption"), folder, F32)
    run_dataset = cluster.run_dataset

    def without_folder(*arguments) -> None:
        shutil.rmtree(folder)
        run_dataset(*arguments)

    monkeypatch.setattr(cluster, "run_dataset", without_folder)
    assert run_on_cluster(job, find_items(["photos"])[:20], "fetched", nodes.address).written == 20
    assert texts_of("fetched") == first(20, photos)
    (copy,) = (Path(os.environ["XDG_CACHE_HOME"]) / "blip-openvino/cluster").glob("[0-9a-f]*")
    assert {file.name for file in copy.iterdir()} == {file.name for file in converted.iterdir()}


def test_a_worker_that_computes_otherwise_ends_the_run_and_says_why(nodes, photos, monkeypatch):
    of = Job.of.__func__

    def other(cls, *about):
        job = of(cls, *about)
        return replace(job, identity={**job.identity, "computes in": "bf16"})

    monkeypatch.setattr(Job, "of", classmethod(other))
    result = run("--cluster", nodes.address, "--output", "otherwise")
    assert (result.exit_code, "ValueError: " in result.stderr.splitlines()[-1]) == (1, True)
    assert "computes in 'f32', not 'bf16': give --inference-precision f32" in result.stderr.splitlines()[-1]


def test_a_run_that_stands_still_ends_with_the_way_out(nodes, photos, monkeypatch):
    from ray.data import Dataset  # Ray, which reads the environment as it is imported
    from ray.data.exceptions import ExecutionTimeoutError

    def write_parquet(self, *args, **kwargs) -> None:
        raise ExecutionTimeoutError("no progress for 1800 s\nadvice on settings")

    monkeypatch.setattr(Dataset, "write_parquet", write_parquet)
    result = run("--cluster", nodes.address, "--output", "still")
    assert (result.exit_code, "start the command again to go on" in result.stderr) == (1, True)
    assert "no progress for 1800 s" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "a.jsonl"), "--cluster writes a folder of Parquet parts"),
        (("--output", "s3://bucket/out"), "--cluster writes a folder of Parquet parts"),
        (("--sidecar", ".txt"), "--cluster does not go with --sidecar or --metadata"),
        (("--output", "a", "--device", "GPU"), "--cluster runs on CPUs: leave --device out"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused_with_the_way_out(photos, options, message):
    result = run("--cluster", "local", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
