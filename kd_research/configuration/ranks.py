"""Which of several processes this one is; what launchers left in the environment, cleared.

torchrun, srun, mpirun and PMI tell a process its rank by variables. A shell in a Slurm job, a
notebook or a container has them as well, though nothing was launched. So: a command starts its
ranks itself, and is one process; only the folder of a run may be started by torchrun or srun, by
as many processes as its `trainer.devices` says. Everything else is refused in a line, or cleared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.config import ConfigError

# Launcher -> the variables of its ranks, the first of which is the global one, and of its size.
LAUNCHERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torchrun": (("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"), ("WORLD_SIZE",)),
    "srun": (("SLURM_PROCID", "SLURM_LOCALID"), ("SLURM_STEP_NUM_TASKS",)),
    "mpirun": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("OMPI_COMM_WORLD_SIZE",),
    ),
    "PMI": (("PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID"), ("PMI_SIZE", "MPI_LOCALNRANKS")),
    "jsrun": (("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK"), ("JSM_NAMESPACE_SIZE",)),
}
# What Lightning and torch read besides; SLURM_NTASKS alone makes Lightning expect srun's ranks.
OTHERS = (
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NODEID",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
NAMES = (*(name for pair in LAUNCHERS.values() for names in pair for name in names), *OTHERS)
RANK_NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


@dataclass(frozen=True)
class Launch:
    """What the environment says of a launch of several processes.

    Attributes:
        launcher: who says it.
        rank: which of them this one is.
        size: how many there are; None where that is not said.
        said: the variables, as NAME=VALUE.
    """

    launcher: str
    rank: int
    size: int | None
    said: tuple[str, ...]

    def __str__(self) -> str:
        names = " ".join(each.partition("=")[0] for each in self.said)
        count = self.size or "several"
        return (
            f"{' and '.join(self.said)} in the environment: {self.launcher} started {count} "
            f"processes, or the variables are left over (then type: unset {names})"
        )


def is_first_process() -> bool:
    """Whether this process writes: rank 0, or the only one; RANK is decisive."""
    if "RANK" in os.environ:
        return _number("RANK") == 0
    return not any(_number(name) for name in RANK_NAMES)


def launch() -> Launch | None:
    """What launch of several processes this one says to be of; None where it is of none.

    A rank of 0 without a size, or a size without a rank, is what shells have: of none.
    """
    for launcher, (rank_names, size_names) in LAUNCHERS.items():
        ranks = {name: number for name in rank_names if (number := _number(name)) is not None}
        sizes = {name: number for name in size_names if (number := _number(name)) is not None}
        size = max(sizes.values(), default=None)
        if any(ranks.values()) or (ranks and (size or 1) > 1):
            said = tuple(f"{name}={number}" for name, number in (ranks | sizes).items())
            return Launch(launcher, next(iter(ranks.values())), size, said)
    return None


def be_one_process() -> None:
    """Clear what launchers left behind, for a command that starts its ranks itself.

    Raises:
        ConfigError: this is one of several processes; each of them would run all of it.
    """
    found = launch()
    if found is not None:
        raise ConfigError(
            [
                f"{found}; this command starts its processes itself: type trainer.devices="
                f"{found.size or 2} without {found.launcher}, or pool=slurm for a sweep"
            ]
        )
    clear()


def take_rank(config: DictConfig) -> None:
    """Be the rank that the environment says, if the run's configuration wants that many; or alone.

    What srun says is translated into torchrun's variables, which is all that Lightning then sees.

    Raises:
        ConfigError: there are another number of processes than `trainer.devices` asks for, or
            they were started by what Lightning does not understand.
    """
    found, wanted = launch(), processes(config)
    if found is None:
        clear()
        return
    if found.launcher not in ("torchrun", "srun"):
        raise ConfigError([f"{found}; start the folder by torchrun or srun, or as one process"])
    if found.size is None or (wanted is not None and found.size != wanted):
        raise ConfigError(
            [
                f"{found}; trainer.devices={config.trainer.get('devices', 1)} asks for "
                f"{wanted or 'as many as it is told of'}: start that many, or change "
                f"trainer.devices in config.yaml"
            ]
        )
    kept = _slurm_ranks() if found.launcher == "srun" else _torch_ranks(found)
    clear()
    os.environ.update(kept)
    _tell_lightning(found.rank)


def clear() -> None:
    """Remove every launcher's variables: this is one process, whatever they say."""
    for name in NAMES:
        os.environ.pop(name, None)
    _tell_lightning(0)


def processes(config: DictConfig) -> int | None:
    """How many ranks a run has when a launcher starts them; None where its hardware says that."""
    trainer = config.get("trainer") or {}
    wanted, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes") or 1)
    if any(word in str(trainer.get("strategy")) for word in ("spawn", "fork", "notebook")):
        return nodes
    if OmegaConf.is_list(wanted):
        return len(wanted) * nodes
    return wanted * nodes if isinstance(wanted, int) and wanted > 0 else None


def over_nodes(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The trainer's options for this rank, where each machine was given one rank at a time.

    `trainer.devices` says how many ranks a run has. Lightning takes it for those of one machine,
    and would look here for the GPUs of the others.

    Args:
        options: of Lightning's Trainer.
    """
    world, wanted = _number("WORLD_SIZE"), options.get("devices")
    ranks = len(wanted) if isinstance(wanted, list | tuple) else wanted
    if _number("LOCAL_WORLD_SIZE") != 1 or world in (None, 1) or ranks != world:
        return options
    return {**options, "devices": 1, "num_nodes": world}


def _number(name: str) -> int | None:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return None


def _torch_ranks(found: Launch) -> dict[str, str]:
    """What torchrun says, or Lightning to the processes that it starts.

    Without the name of torchrun's job: Lightning would refuse the teacher's one device for it.

    Raises:
        ConfigError: they lack the place where the processes meet.
    """
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError([f"{found}; {' and '.join(missing)} would say where they meet"])
    sizes = ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
    names = [*LAUNCHERS["torchrun"][0], *sizes, "MASTER_ADDR", "MASTER_PORT"]
    return {name: os.environ[name] for name in names if name in os.environ}


def _slurm_ranks() -> dict[str, str]:
    """What srun says, in torchrun's words."""
    said = os.environ
    address, job, step = "127.0.0.1", said.get("SLURM_JOB_ID", "0"), said.get("SLURM_STEP_ID", "0")
    if int(said.get("SLURM_STEP_NUM_NODES", said.get("SLURM_NNODES", "1"))) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        nodes = said.get("SLURM_STEP_NODELIST") or said["SLURM_NODELIST"]
        address = SLURMEnvironment.resolve_root_node_address(nodes)
    return {
        "RANK": said["SLURM_PROCID"],
        "LOCAL_RANK": said.get("SLURM_LOCALID", said["SLURM_PROCID"]),
        "NODE_RANK": said.get("SLURM_NODEID", "0"),
        "WORLD_SIZE": said["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": said.get("MASTER_ADDR", address),
        # Steps of one job may share a machine.
        "MASTER_PORT": said.get("MASTER_PORT", str(15000 + (int(job) + 97 * int(step)) % 10000)),
    }


def _tell_lightning(rank: int) -> None:
    """Lightning has read the rank where it is imported already; it would keep a cleared one."""
    module = sys.modules.get("lightning_utilities.core.rank_zero")
    if module is not None:
        module.rank_zero_only.rank = rank
