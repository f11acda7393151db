"""Memory and time of a distillation step of text with a large vocabulary, whole and in chunks.

    python benchmarks/chunked_memory.py [--positions 4096] [--vocabulary 50257]

Each way runs in a process of its own. `rss` is the most resident memory during the second step
beyond what the process had before it (weights and gradients are there by then, and freed memory is
given back), read every millisecond; the step's seconds are of the processor. `live` is the most
bytes of live tensors beyond these, counted tensor by tensor, which is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import asked

CONTEXT = 256
WAYS = ("whole, live teacher", "chunks, live teacher", "chunks, cached top 50", "chunks, ce alone")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(way: str, positions: int, vocabulary: int, width: int) -> dict[str, Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    from kd_research.evaluation.costs import LiveBytes
    from kd_research.interfaces import Batch
    from kd_research.losses.logits import SoftTarget
    from kd_research.losses.objective import Objective
    from kd_research.models.gpt import GPT
    from kd_research.soft_targets.store import SoftTargets
    from kd_research.training import chunked_step
    from kd_research.training.distill import Distiller
    from kd_research.training.memory import give_freed_back, keep_freed

    keep_freed()  # as a run does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = positions // CONTEXT
    student, teacher = (GPT(vocabulary, CONTEXT, 1, width, 4) for _ in range(2))
    if way.startswith("whole"):
        chunked_step.WHOLE = 1 << 60
    terms = {} if "ce alone" in way else {"fkl": {"loss": SoftTarget(1.0), "weight": 0.5}}
    module = Distiller(
        student, Objective(terms, 0.5), lambda p: torch.optim.SGD(p, lr=0.1), teacher=teacher
    )
    tokens = torch.randint(vocabulary, (rows, CONTEXT + 1))
    batch = Batch({"input_ids": tokens[:, :-1]}, tokens[:, 1:].contiguous(), torch.arange(rows))
    few = Batch({"input_ids": tokens[:1, :-1]}, tokens[:1, 1:].contiguous(), torch.arange(1))
    module.build(few, rows)
    with tempfile.TemporaryDirectory() as folder:
        if "cached" in way:
            shapes = {"logits": (CONTEXT, vocabulary)}
            module.cached = SoftTargets(Path(folder), "key", rows, shapes, 1, "float16", top_k=50)
            module.cached.start_epoch(0)
        module.losses(few)[0].backward()  # gradients are there, libraries are warm
        if "cached" in way:
            module.losses(batch)  # the outputs are on disk
        present = [*module.parameters(), *teacher.parameters(), *tree_leaves(tuple(batch))]
        present += [p.grad for p in module.parameters()]
        give_freed_back()
        before, most, done = resident(), [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                most[0] = max(most[0], resident())
                time.sleep(0.001)

        thread = threading.Thread(target=watch)
        thread.start()
        start = time.process_time()
        module.losses(batch)[0].backward()
        seconds = time.process_time() - start
        done.set()
        thread.join()
        live = LiveBytes(present)
        beyond = live.now
        with live:
            module.losses(batch)[0].backward()
    return {"rss_mb": (most[0] - before) / 1e6, "live_mb": (live.peak - beyond) / 1e6, "s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=asked.count, default=4096)
    parser.add_argument("--vocabulary", type=asked.count, default=50257)
    parser.add_argument("--width", type=asked.count, default=64)
    parser.add_argument("--way", choices=WAYS)
    arguments = parser.parse_args()
    if arguments.way:
        sizes = (arguments.positions, arguments.vocabulary, arguments.width)
        print(json.dumps(measure(arguments.way, *sizes)))
        return
    print(f"N = {arguments.positions}, V = {arguments.vocabulary}, width {arguments.width}")
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{way:24} failed: {done.stderr.strip().splitlines()[-1:]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{way:24} rss +{found['rss_mb']:7.0f} MB   live +{found['live_mb']:7.0f} MB   "
            f"step {found['s']:6.1f} s"
        )


if __name__ == "__main__":
    main()
