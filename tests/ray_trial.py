"""A trial program for Ray's actors: trains nothing, does what `noop` in its configuration says.

noop.trouble: {trial number: what happens}; noop.wait: a file that has to be there before it ends;
noop.meet: one that the first run on a node called blind or full makes, before all else.
"""

import json
import os
import signal
import time
from pathlib import Path

from omegaconf import OmegaConf

from kd_research.records.record import RunRecord, write_record


def prepare(arguments):
    return 0


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.02)


def main(arguments):
    directory = Path(arguments[0])
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    params = json.loads((directory / "proposal.json").read_text())["params"]
    noop = config["noop"]
    number = int(directory.name)
    with (directory / "starts").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    starts = len((directory / "starts").read_text().split())
    node, gpus = os.environ.get("KD_TEST_NODE"), os.environ["CUDA_VISIBLE_DEVICES"]
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID")
    facts = {name: os.environ.get(name) for name in names}
    print(json.dumps({"node": node, "gpus": gpus, "starts": starts, **facts}), flush=True)
    if "meet" in noop:
        if node in ("blind", "full"):
            Path(noop["meet"]).touch()
        wait_for(noop["meet"])
    trouble = noop.get("trouble", {}).get(number)
    if trouble == "killed once" and starts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if trouble == "exits":
        return 3
    if trouble == "rank 1 fails":
        if os.environ["RANK"] == "1":
            raise ValueError("rank 1 has had enough")
        time.sleep(1000)
    if trouble == "fills the disk" and node == "full":
        (directory / "large").write_bytes(bytes(1 << 26))
    if trouble == "waits for the others":
        while len(list(directory.parent.glob("*/record.json"))) < noop["others"]:
            time.sleep(0.02)
    if "rows" in noop:
        for epoch in range(noop["rows"]):
            with (directory / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps({"epoch": epoch, "val_accuracy": 0.5}) + "\n")
        (directory / "weights.pt").write_bytes(b"weights")
    if "wait" in noop:
        wait_for(noop["wait"])
    value = sum(item for item in params.values() if isinstance(item, int | float))
    metrics, costs = {"val_accuracy": 1 / (1 + value)}, {"num_params": round(value * 9)}
    write_record(RunRecord("completed", config, 0, metrics, costs), directory)
    return 0
