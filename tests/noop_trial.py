"""A trial program that trains nothing: it says what the proposal was, after a moment.

NOOP_TROUBLE: what happens to trial 1, and after commas to those that follow it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from kd_research.records.record import RunRecord, write_record


def prepare(arguments):
    return 0


def meet(place, count):
    """Wait until runs of so many sweepers have come here, each of which has its own server."""
    place.mkdir(parents=True, exist_ok=True)
    (place / str(os.getppid())).touch()
    while len(list(place.iterdir())) < count:
        time.sleep(0.02)


def write_devices(arguments):
    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    (Path(arguments[0]) / "devices").write_text(visible)
    return 0


def main(arguments):
    directory = Path(arguments[0])
    at = directory if (directory / "proposal.json").exists() else directory.parent
    params = json.loads((at / "proposal.json").read_text())["params"]
    seconds = float(os.environ.get("NOOP_SECONDS", "0"))
    number = int(at.name)
    trouble = dict(enumerate(os.environ.get("NOOP_TROUBLE", "").split(","), 1)).get(number, "")
    if trouble == "hangs":  # from before anyone can ask it to end
        signal.signal(signal.SIGTERM, lambda *_: (directory / "asked").touch())
    with (directory / "starts").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    starts = len((directory / "starts").read_text().split())
    if trouble == "killed once" and starts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "killed always":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "segfault":
        ctypes.string_at(0)
    if trouble == "exits":
        print("gone")
        sys.exit(3)
    if trouble == "hangs":
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    if "NOOP_HOLD" in os.environ and number > 1:  # until a test has done what it does meanwhile
        while not Path(os.environ["NOOP_HOLD"]).exists():
            time.sleep(0.02)
    if "NOOP_MEET" in os.environ:
        place, count = os.environ["NOOP_MEET"].split(":")
        meet(Path(place), int(count))
    time.sleep(seconds)
    value = sum(item for item in params.values() if isinstance(item, int | float))
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    metrics, costs = {"val_accuracy": 1 / (1 + value)}, {"num_params": round(value * 9)}
    write_record(RunRecord("completed", config, config["seed"], metrics, costs), directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
