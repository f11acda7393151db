"""Is it right on a GPU? Against the CPU, beside the warm server, with several ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu import Bench, end, environ
from gpu_meter import Meter
from gpu_setting import BATCH, MLPS, common, composed, images, pair_of, quiet, random_teacher
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from kd_research.records.record import LOG_NAME, METRICS_NAME, RECORD_NAME
from kd_research.training.device import check_device
from kd_research.training.fit import fit
from kd_research.trial.assembly import Parts

STEPS = 20
FEW = 2  # steps in miniature
FORK_ERROR = "re-initialize CUDA"


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().cpu().double().flatten() for p in module.parameters()])


def trained(bench: Bench, name: str, *overrides: str, **trainer: Any) -> tuple[Tensor, Tensor]:
    """The student's weights before and after one epoch, and nothing else of the run."""
    config = composed(bench, *images(bench, (FEW if bench.cpu else STEPS) * BATCH), *overrides)
    random_teacher(bench, config)
    options = {**config["trainer"], "max_epochs": 1, "limit_val_batches": 1, **trainer}
    parts = Parts({**config, "trainer": options})
    before = flat(parts.student)
    seed_everything(0, verbose=False)
    directory = bench.outputs / "fits" / name
    fit(parts.module, parts.data, options, directory, lambda _: None)
    return before, flat(parts.student)


def distance(one: Tensor, other: Tensor, start: Tensor) -> float:
    """How far two ends of training lie apart, as a share of how far one has come."""
    return float((one - other).norm() / (one - start).norm())


def correctness(bench: Bench) -> None:
    """Weights and cached outputs of the GPU against the CPU's; bf16 finite."""
    quiet()
    torch.set_num_threads(1 if bench.cpu else 8)
    check_device(torch.device(bench.device), bench.device)
    pair, live = pair_of(bench), "soft_targets.cache=false"
    accelerator = "cpu" if bench.cpu else "gpu"
    torch.backends.cudnn.allow_tf32 = False
    start, on_cpu = trained(bench, "mlp-cpu", *MLPS, live, accelerator="cpu")
    _, on_gpu = trained(bench, "mlp-gpu", *MLPS, live, accelerator=accelerator)
    apart, note = distance(on_cpu, on_gpu, start), "of the distance trained"
    bench.tell("an MLP: GPU float32 against CPU", apart, ok=apart < 1e-3, note=note)
    start, on_cpu = trained(bench, "cpu", *pair, live, accelerator="cpu")
    _, other_layout = trained(bench, "nchw", *pair, live, "channels_last=false", accelerator="cpu")
    rounding = distance(on_cpu, other_layout, start)
    steps = FEW if bench.cpu else STEPS
    bench.tell("resnet8: CPU, NCHW against channels_last: rounding alone", rounding, note=note)
    _, on_gpu = trained(bench, "gpu", *pair, live, accelerator=accelerator)
    apart = distance(on_cpu, on_gpu, start)
    right = apart < 1e-3 + 10 * rounding
    bench.tell(f"resnet8: GPU float32 against CPU, {steps} steps", apart, ok=right, note=note)
    torch.backends.cudnn.allow_tf32 = True  # torch's default: its convolutions are not float32
    _, on_gpu = trained(bench, "tf32", *pair, live, accelerator=accelerator)
    bench.tell("the same with TF32 convolutions", distance(on_cpu, on_gpu, start), note=note)
    _, low = trained(bench, "bf16", *pair, live, accelerator=accelerator, precision="bf16-mixed")
    finite = bool(low.isfinite().all())
    bench.tell("bf16-mixed", distance(on_cpu, low, start), ok=finite, note="finite weights")
    cached_outputs(bench, pair)


def cached_outputs(bench: Bench, pair: list[str]) -> None:
    """A store filled ahead on the GPU beside one of the CPU."""
    config = composed(bench, *images(bench, BATCH if bench.cpu else 40 * BATCH), *pair)
    random_teacher(bench, config)
    found = {}
    for name, tf32 in (("cpu", False), ("float32", False), ("tf32", True)):
        torch.backends.cudnn.allow_tf32 = tf32
        device = torch.device("cpu" if name == "cpu" else bench.device)
        own = {**config["soft_targets"], "fill": "ahead", "views": 1}
        where = str(bench.outputs / "stores" / name)
        cached = Parts({**config, "soft_targets": own, "output_dir": where}, device).module.cached
        assert cached is not None
        cached.start_epoch(0)
        assert cached.missing().numel() == 0
        index = torch.arange(cached.num_examples)
        found[name] = cached.outputs(index, lambda _: None).logits.double()  # type: ignore[arg-type,return-value]
    scale = float(found["cpu"].abs().max())
    for name, limit in (("float32", 1e-4), ("tf32", 1e-2)):
        apart = float((found[name] - found["cpu"]).abs().max()) / scale
        what = f"outputs cached on the GPU, {name}, against the CPU's"
        bench.tell(what, apart, ok=apart < limit, note="largest, over the largest logit")


def server(bench: Bench) -> None:
    """Eight trials of a sweep, four at a time on one GPU, one of them killed."""
    meter, trials = Meter(not bench.cpu), 4 if bench.cpu else 8
    before, folder = meter.used_mib(), bench.outputs / "sweeps" / f"gpu-{os.getpid()}"
    overrides = [
        *common(bench),
        *images(bench, 4 * BATCH if bench.cpu else 100 * BATCH),
        *pair_of(bench),
        "teacher.trainer.max_epochs=1",
        "trainer.max_epochs=3",
        *(["read_test=false", "+trainer.limit_val_batches=1"] if bench.cpu else []),
        f"sweep.name={folder.name}",
        f"sweep.workers={2 if bench.cpu else 4}",
        f"sweep.n_trials={trials}",
        "sampler=random",
        "sweep.space={}",
        "loss.temperature=interval(1,20)",
        "efficiency.num_runs=5",
    ]
    command = [sys.executable, "-m", "kd_research.run", "-m", *overrides]
    started, most, killed = time.monotonic(), before or 0.0, None
    log = bench.outputs / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environ(bench.cpu), start_new_session=True
        )
    try:
        while process.poll() is None and time.monotonic() < started + bench.seconds - 8:
            most = max(most, meter.used_mib() or 0.0)
            killed = killed or kill_one(folder)
            time.sleep(0.05)
    finally:
        end(process)
        process.wait()
    seconds = time.monotonic() - started
    records = [json.loads(path.read_text()) for path in folder.glob(f"trials/*/{RECORD_NAME}")]
    completed = [record for record in records if record["status"] == "completed"]
    note = f"exit code {process.returncode}; {log.read_text().strip().splitlines()[-1][:120]}"
    if len(completed) == trials:
        note = f"all after {seconds:.1f} s, the teacher's training included"
    bench.tell(
        "trials completed", len(completed), f"of {trials}", ok=bool(note[:3] == "all"), note=note
    )
    logs = "".join(path.read_text(errors="replace") for path in folder.glob(f"trials/*/{LOG_NAME}"))
    bench.tell(f'logs with "{FORK_ERROR}"', logs.count(FORK_ERROR), ok=FORK_ERROR not in logs)
    again = "it goes on (retry 1" in log.read_text()
    bench.tell(
        "a trial after kill -9",
        "goes on" if again else "none was seen",
        ok=again,
        note=f"pid {killed}",
    )
    devices = sorted({record["provenance"]["device"] for record in completed})
    bench.tell("the trials' device", ", ".join(devices))
    after = meter.settled_mib(before)
    if before is not None and after is not None:
        back = after <= before + 64
        bench.tell(
            "GPU memory before, most, after",
            f"{before:.0f}, {most:.0f}, {after:.0f}",
            "MiB",
            ok=back,
        )


def kill_one(folder: Path) -> int | None:
    """Kill a trial that has trained an epoch; its process writes to log.txt of its folder."""
    for rows in folder.glob(f"trials/*/{METRICS_NAME}"):
        if (rows.parent / RECORD_NAME).exists() or '"epoch": 0' not in rows.read_text():
            continue
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "fd" / "1") == str(rows.parent / LOG_NAME):
                    os.kill(int(entry.name), signal.SIGKILL)
                    return int(entry.name)
            except OSError:
                continue
    return None


def ranks(bench: Bench) -> None:
    """NCCL with one rank by the trial's own command; gloo with two ranks that share the GPU."""
    small = [*images(bench, (FEW if bench.cpu else 8) * BATCH), *MLPS, "trainer.max_epochs=1"]
    run = bench.outputs / "runs" / f"ddp-{os.getpid()}"
    command = [sys.executable, "-m", "kd_research.run", *common(bench), *small]
    command += ["teacher.trainer.max_epochs=1", "trainer.strategy=ddp", "trainer.devices=1"]
    command += ["efficiency.num_runs=5", f"hydra.run.dir={run}"]
    code, printed = bench.run(command, bench.seconds / 2, NCCL_DEBUG="VERSION")
    status = json.loads((run / RECORD_NAME).read_text())["status"] if code == 0 else "failed"
    nccl = next((line.strip() for line in printed.splitlines() if "NCCL version" in line), "")
    note = nccl or (printed.strip().splitlines() or ["it printed nothing"])[-1][:200] * bool(code)
    bench.tell("trainer.devices=1 trainer.strategy=ddp", status, ok=code == 0, note=note)
    start, alone = trained(bench, "one-rank", *MLPS)
    torch.save(start, bench.outputs / "start.pt")
    port, processes = free_port(), []
    context: Any = multiprocessing.get_context("fork" if bench.cpu else "spawn")
    for rank_number in range(2):
        variables = {"NODE_RANK": str(rank_number), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        variables["GLOO_SOCKET_IFNAME"] = "lo"  # a machine's own name may not resolve
        process = context.Process(target=rank, args=(bench, variables))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if any(codes):
        bench.tell(
            "gloo, two ranks on one GPU", None, ok=False, note=f"exit codes {codes}, see log.txt"
        )
        return
    both = torch.load(bench.outputs / "two-ranks.pt", weights_only=True)
    apart = distance(alone, both, start)
    note = "of the distance trained"
    bench.tell("gloo, two ranks on one GPU, against one rank", apart, ok=apart < 1e-3, note=note)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def rank(bench: Bench, variables: dict[str, str]) -> None:
    """One of two: Lightning takes each for a node with one device, which is the same."""
    os.environ.update(variables)
    quiet()
    strategy = DDPStrategy(process_group_backend="gloo")
    _, after = trained(bench, "two-ranks", *MLPS, strategy=strategy, num_nodes=2, devices=1)
    if os.environ["NODE_RANK"] == "0":
        torch.save(after, bench.outputs / "two-ranks.pt")
