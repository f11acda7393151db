"""Sweeps on a Ray cluster: simulated, of two nodes, on loopback, shared by all tests here."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from sweep_commands import PATHS, folder, make_plan, processes_of, records, start
from test_local import check_whole

ray = pytest.importorskip("ray", reason="needs kd_research[ray]")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own, of what it starts
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

from simulated_ray import (  # noqa: E402
    NOOP,
    Nodes,
    facts,
    num_starts,
    run,
    slots_of,
    statuses,
    touched,
    wait_for,
)

from kd_research.configuration.config import ConfigError  # noqa: E402
from kd_research.pools import ray_cluster, ray_pool, ray_settings  # noqa: E402
from kd_research.pools.ray_files import Mirror, Outbox  # noqa: E402


@pytest.fixture(scope="module")
def no_handler_of_rays():
    """Ray's start in this process sets one for SIGTERM that it never takes back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def cluster(no_handler_of_rays):
    with tempfile.TemporaryDirectory(prefix="kd-", ignore_cleanup_errors=True) as home:
        before = dict(os.environ)
        os.environ |= {"RAY_TMPDIR": f"{home}/r", "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ |= {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
        try:
            nodes = Nodes(Path(home))
        except Exception as error:  # Ray's own, of many kinds
            pytest.skip(f"Ray starts no cluster here: {error}")
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            if not nodes.answers():
                pytest.skip("Ray's processes start here, and run nothing")
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


@pytest.fixture
def pool(cluster):
    """How the command line names the cluster; this process is connected to it."""
    ray_cluster.connect(cluster.cluster.address, 1)
    return [*NOOP, f"pool.address={cluster.cluster.address}"]


def test_no_trial_waits_for_a_batch_and_a_bad_one_costs_itself_alone(cluster, pool, tmp_path):
    trouble = "{0: waits for the others, 1: killed once, 2: exits, 3: segfault}"
    run(tmp_path, pool, f"+noop={{trouble: {trouble}, others: 7}}", "sweep.n_trials=8")
    found = statuses(tmp_path)
    assert found == dict.fromkeys(range(8), "completed") | {2: "failed", 3: "failed"}
    assert len(facts(tmp_path, 1)) == 2
    assert "exit code 3" in records(tmp_path)[2]["error"]
    assert records(tmp_path)[3]["error"].startswith("its process was killed by signal 11 (SIGSEGV)")
    assert {facts(tmp_path, number)[0]["node"] for number in found} == {"a", "b"}
    assert {facts(tmp_path, number)[0]["SLURM_PROCID"] for number in found} == {None}
    check_whole(tmp_path, 8)
    wait_for(lambda: slots_of(cluster) == [])  # the cluster has its resources back


def test_actors_and_nodes_come_and_go(cluster, pool, tmp_path):
    go = tmp_path / "go"

    def meanwhile():
        wait_for(lambda: num_starts(tmp_path) == 2)
        os.kill(slots_of(cluster)[0], signal.SIGKILL)
        wait_for(lambda: num_starts(tmp_path) == 3)  # by another actor in its place
        cluster.kill("b")
        wait_for(lambda: len(slots_of(cluster)) == 1)
        cluster.nodes["c"] = cluster.add("c")
        wait_for(lambda: num_starts(tmp_path) == 4)

    run(
        tmp_path,
        pool,
        f"+noop={{wait: {go}}}",
        "sweep.n_trials=5",
        meanwhile=touched(go, meanwhile),
    )
    assert statuses(tmp_path) == dict.fromkeys(range(5), "completed")
    assert "c" in {each["node"] for number in range(5) for each in facts(tmp_path, number)}
    check_whole(tmp_path, 5)
    wait_for(lambda: slots_of(cluster) == [])


def test_a_sweeper_that_stops_or_is_killed_leaves_nothing_and_the_next_goes_on(
    cluster, pool, tmp_path
):
    go = tmp_path / "go"
    arguments = [*pool, f"+noop={{wait: {go}, secret: hunter2}}", "sweep.n_trials=4"]
    for number in (signal.SIGINT, signal.SIGKILL):
        before = num_starts(tmp_path)
        process = start(tmp_path, base=arguments)
        wait_for(lambda before=before: num_starts(tmp_path) == before + 2)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=200)
        if number == signal.SIGINT:
            assert process.returncode == 130, printed
            assert "the same command goes on from here" in printed
            assert "Traceback" not in printed
        wait_for(lambda: slots_of(cluster) == [])
        wait_for(lambda: processes_of(tmp_path) == [])
        assert records(tmp_path) == {}
    go.touch()
    run(tmp_path, arguments)
    assert statuses(tmp_path) == dict.fromkeys(range(4), "completed")
    check_whole(tmp_path, 4)
    told = subprocess.run(
        ["grep", "-rl", "hunter2", str(cluster.home / "r")], capture_output=True, text=True
    )
    assert told.stdout == "", "Ray's logs hold the sweeper's command line"
    jobs = ray._raylet.GcsClient(address=cluster.cluster.address).get_all_job_info()
    assert {job.entrypoint for job in jobs.values()} == {"kd_research"}


def test_files_travel_where_the_folder_is_not_seen(cluster, pool, tmp_path):
    go, tmp_path = tmp_path / "go", tmp_path / "outputs"  # apart: what lies there travels
    rows = folder(tmp_path) / "trials" / "0000" / "metrics.jsonl"

    def meanwhile():
        wait_for(lambda: rows.exists() and len(rows.read_text().splitlines()) == 3)
        assert records(tmp_path) == {}

    base = [*pool, "pool.files=ray", f"+noop={{wait: {go}, rows: 3, trouble: {{1: killed once}}}}"]
    run(tmp_path, base, "sweep.n_trials=4", meanwhile=touched(go, meanwhile))
    assert statuses(tmp_path) == dict.fromkeys(range(4), "completed")
    found = {path.name for path in rows.parent.iterdir()}
    assert found >= {"config.yaml", "record.json", "metrics.jsonl", "weights.pt", "log.txt"}
    assert len(rows.read_text().splitlines()) == 3
    for record in records(tmp_path).values():
        assert record["config"]["output_dir"] == str(tmp_path)
    assert len(facts(tmp_path, 1)) == 2
    assert facts(tmp_path, 1)[1]["starts"] == 2  # it had its folder again
    assert not list(cluster.home.glob("node-*/kd_research-ray-*/*/tmp"))  # the nodes are clean
    check_whole(tmp_path, 4)


def test_a_node_whose_disk_is_full_gets_nothing(cluster, pool, tmp_path):
    disk = cluster.home / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    node = cluster.add("full", disk)
    try:
        trouble = ", ".join(f"{number}: fills the disk" for number in range(6))
        noop = f"+noop={{trouble: {{{trouble}}}, meet: {cluster.home / 'filled'}}}"
        base = [*pool, "pool.files=ray", noop, "sweep.max_retries=0"]
        run(tmp_path, base, "sweep.n_trials=6")
        assert statuses(tmp_path) == dict.fromkeys(range(6), "completed")
        places = [each["node"] for number in range(6) for each in facts(tmp_path, number)]
        assert len(places) == 6
        assert "full" not in places
        check_whole(tmp_path, 6)
    finally:
        cluster.remove(node)
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long  # of the kind of the test of files that travel; here nobody says that they must
def test_a_node_that_does_not_see_the_folder_is_found_out(cluster, pool, tmp_path):
    node = cluster.add_blind(tmp_path)
    if node is None:
        pytest.skip("needs the right to hide a folder from a process (unshare --mount)")

    def is_there():
        return any(each["Alive"] and "blind" in each["Resources"] for each in ray.nodes())

    try:
        wait_for(is_there)
        run(
            tmp_path,
            [*pool, f"+noop={{meet: {cluster.home / 'met'}}}"],
            "sweep.n_trials=4",
        )
        assert statuses(tmp_path) == dict.fromkeys(range(4), "completed")
        assert "blind" in {facts(tmp_path, number)[0]["node"] for number in range(4)}
        check_whole(tmp_path, 4)
    finally:
        node.terminate()  # it ends what it has started
        node.wait()
        wait_for(lambda: not is_there())


def test_what_a_run_needs_travels_once_by_content(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output, elsewhere = tmp_path / "outputs", tmp_path / "other.pt"
    own, other = {"_target_": "my.Net", "width": 8}, {"_target_": "my.Net", "width": 9}
    for name, model in (("digits-own", own), ("digits-other", other)):
        (output / "teachers" / name).mkdir(parents=True)
        (output / "teachers" / name / "content.json").write_text(json.dumps({"recipe": model}))
        (output / "teachers" / name / "weights.pt").write_bytes(b"weights of " + name.encode())
        (output / "teachers" / name / "lock").touch()
    elsewhere.write_bytes(b"a checkpoint")
    own_folder = output / "sweeps" / "s" / "trials" / "0000"
    own_folder.mkdir(parents=True)
    config = {"output_dir": str(output), "teacher": {"model": own, "checkpoint": str(elsewhere)}}
    (own_folder / "config.yaml").write_text(json.dumps(config))
    (own_folder / "metrics.jsonl").write_text("{}\n")
    outbox, mirror = Outbox(output), Mirror("token", output)
    there = mirror.receive(str(own_folder), outbox.files(own_folder))
    found = json.loads((there / "config.yaml").read_text())
    teachers = Path(found["output_dir"]) / "teachers"
    assert [path.name for path in teachers.iterdir()] == ["digits-own"]
    weights = teachers / "digits-own" / "weights.pt"
    assert weights.read_bytes() == b"weights of digits-own"
    assert not (weights.parent / "lock").exists()
    assert Path(found["teacher"]["checkpoint"]).read_bytes() == b"a checkpoint"
    assert found["teacher"]["checkpoint"] == str(mirror.local(elsewhere))
    assert (there / "metrics.jsonl").read_text() == "{}\n"
    before = weights.stat().st_ino
    (there / "record.json").write_text(json.dumps({"teacher_path": str(weights)}))
    back = mirror.folder_files(there)
    assert json.loads(back["record.json"]) == {
        "teacher_path": str(output / "teachers" / "digits-own" / "weights.pt")
    }
    mirror.receive(str(own_folder), outbox.files(own_folder))
    assert weights.stat().st_ino == before  # not written again
    (output / "teachers" / "digits-own" / "weights.pt").write_bytes(b"others")
    mirror.receive(str(own_folder), outbox.files(own_folder))
    assert weights.read_bytes() == b"others"
    mirror.leave()
    assert not mirror.root.exists()
    left = Mirror("of a sweeper that was killed", output)
    os.close(left._use)
    Mirror("token", output)
    assert not left.root.exists()


def test_ranks_are_placed_over_nodes(cluster, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "SETTLE_SECONDS", 1)  # rank 0 does not end by itself
    ranks = [*pool, "trainer.devices=2", "trainer.strategy=ddp"]
    run(tmp_path, ranks, "+noop={trouble: {1: rank 1 fails}}", "sweep.n_trials=2")
    said = facts(tmp_path, 0)
    assert sorted(each["RANK"] for each in said) == ["0", "1"]
    assert {each["WORLD_SIZE"] for each in said} == {"2"}
    assert len({each["node"] for each in said}) == 2
    assert records(tmp_path)[1]["error"] == "rank 1: ValueError: rank 1 has had enough"
    check_whole(tmp_path, 2)
    wait_for(lambda: slots_of(cluster) == [])


@pytest.mark.long  # runs placed on nodes of a cluster, as in the test above, with two more nodes
def test_runs_and_ranks_share_a_gpu_by_parts(cluster, pool, tmp_path):
    ranks = ["trainer.devices=2", "trainer.strategy=ddp"]
    node = cluster.add("gpu", num_cpus=2, num_gpus=1)  # pretended
    try:
        shared = [item for item in pool if item != "pool.gpus=0"]
        others = "+noop={trouble: {0: waits for the others}, others: 1}"
        run(tmp_path / "gpu", shared, "pool.gpus=0.5", others, "sweep.n_trials=2")
        said = [facts(tmp_path / "gpu", number)[0] for number in range(2)]
        assert [(each["node"], each["gpus"]) for each in said] == [("gpu", "0")] * 2
        # A machine with one GPU each: the ranks of one run are on both, each with its own.
        other = cluster.add("gpu-2", num_cpus=2, num_gpus=1)
        try:
            run(tmp_path / "two", shared, "pool.gpus=1", *ranks, "+noop={}", "sweep.n_trials=1")
            said = facts(tmp_path / "two", 0)
            assert {(each["node"], each["gpus"]) for each in said} == {("gpu", "0"), ("gpu-2", "0")}
            assert {(each["NODE_RANK"], each["LOCAL_RANK"]) for each in said} == {
                ("0", "0"),
                ("1", "0"),
            }
        finally:
            cluster.remove(other)
    finally:
        cluster.remove(node)


def test_more_slots_are_asked_for_while_all_are_busy(cluster, pool, tmp_path):
    go = tmp_path / "go"
    runs = [tmp_path / f"{index:04d}" for index in range(2)]
    for run_folder in runs:
        run_folder.mkdir()
        (run_folder / "config.yaml").write_text(json.dumps({"noop": {"wait": str(go)}}))
        (run_folder / "proposal.json").write_text(json.dumps({"params": {}}))
    growing = ray_pool.RayPool(gpus=0, max_workers=3, output_dir=str(tmp_path), program="ray_trial")
    try:
        assert len(growing._groups) == growing.slots == 2
        handles = [growing.submit(run_folder) for run_folder in runs]
        # Ray is asked for one more, which an autoscaler sees; there is no room for it here.
        wait_for(lambda: not growing.wait(handles, 0.1) and len(growing._groups) == 3)
        assert growing.slots == 2
        go.touch()
        wait_for(lambda: growing.wait(handles, 0.1) and all(handle.end() for handle in handles))
        assert not any(handle.end().failed for handle in handles)
        wait_for(lambda: not growing.wait([], 0.1) and len(growing._groups) == 2)
    finally:
        growing.close()
    wait_for(lambda: slots_of(cluster) == [])


def test_the_head_goes_and_the_sweep_ends_in_a_line_and_goes_on_elsewhere(cluster, tmp_path):
    ray.shutdown()  # this process would be ended by Ray, a minute later
    go = tmp_path / "go"
    base = [*NOOP, f"+noop={{wait: {go}}}", "sweep.n_trials=4"]
    process = start(tmp_path, f"pool.address={cluster.cluster.address}", base=base)
    try:
        wait_for(lambda: num_starts(tmp_path) == 2)
        (head,) = [i.process for i in cluster.cluster.head_node.all_processes["gcs_server"]]
        head.kill()
        head.wait()
        printed, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 75, printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("the head of the Ray cluster, 127.0.0.2:"), printed
    assert "Traceback" not in printed
    wait_for(lambda: processes_of(tmp_path) == [])
    assert records(tmp_path) == {}
    go.touch()
    again = start(tmp_path, "sweep.workers=2", base=base)  # with a Ray of its own
    printed, _ = again.communicate(timeout=200)
    assert again.returncode == 0, printed
    assert statuses(tmp_path) == dict.fromkeys(range(4), "completed")
    check_whole(tmp_path, 4)


def test_settings_are_checked_at_once_and_a_missing_cluster_is_told(tmp_path):
    wrong = ["pool.cpus=0", "pool.gpus=1.5", "pool.address='ray://head:10001'", "pool.files=disk"]
    with pytest.raises(ConfigError) as told:
        make_plan(f"output_dir={tmp_path}", *NOOP, *wrong, "pool.max_workers=0")
    for name in ("pool.gpus", "pool.address", "pool.files", "pool.max_workers"):
        assert any(line.startswith(name) for line in told.value.problems), told.value
    with pytest.raises(ConfigError, match="no slot; try pool.cpus"):
        make_plan(f"output_dir={tmp_path}", *NOOP, "pool.cpus=0")


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_settings, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pool=ray needs Ray; install kd_research\[ray\]"):
        make_plan(f"output_dir={tmp_path}", *NOOP)
