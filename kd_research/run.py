"""The one entry: `python -m kd_research.run`, and with `-m` a sweep.

Hydra composes the configuration; a single run is then handed over to `kd_research.trial` in place
of this process (so that a run is never a Hydra application, whose command line Lightning's DDP
would run again), a sweep to `kd_research.sweep`. Imports neither torch nor wandb.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import chain
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports' traceback tells nobody anything

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration import own_folders, ranks
from kd_research.configuration.config import (
    ROOT,
    ConfigError,
    register_resolvers,
    save,
    settle,
)
from kd_research.configuration.overrides import as_whole, explain, student_for
from kd_research.configuration.syntax import syntax_problems
from kd_research.configuration.trust import FLAG, take_flag
from kd_research.records.printable import masked, printable
from kd_research.records.printing import print_safely
from kd_research.records.record import CONFIG_NAME

register_resolvers()


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def _run(config: DictConfig) -> None:
    """Write config.yaml, and become the trial; `hydra_plugin.CheckFirst` has checked it."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # ours never calls this
        sys.exit(
            f"hydra/sweeper={HydraConfig.get().runtime.choices['hydra/sweeper']} runs no sweep of "
            "this package (it would run the first setting alone); leave it out: -m with "
            "sampler=grid runs every setting"
        )
    settle(config)
    typed = [masked(str(item)) for item in HydraConfig.get().overrides.task]
    OmegaConf.update(config, "overrides", typed, force_add=True)
    save(config, directory / CONFIG_NAME)
    os.execv(sys.executable, [sys.executable, "-m", "kd_research.trial", str(directory), FLAG])


def main() -> None:
    """Compose and run; a wrong override is explained, all of them at once."""
    import kd_research.pools.rare_collection  # noqa: F401 - not for who imports this module

    try:
        ranks.be_one_process()
    except ConfigError as error:
        sys.exit(str(error))
    sys.argv[1:] = arguments = take_flag(sys.argv[1:])
    problems = own_folders.take(arguments)
    hydra_plugin.register()
    if student := student_for(own_folders.split(arguments)[1]):
        print(
            f"note: {student}, because this loss compares layers that the default student has not; "
            "student=NAME takes another",
            file=sys.stderr,
        )
        arguments.append(student)
        sys.argv[1:] = arguments
    problems = problems or syntax_problems(arguments)
    sys.argv[1:] = arguments = as_whole(arguments)
    problems = problems or explain(arguments)
    if problems:
        sys.exit(printable("\n".join(problems)))
    flags, overrides = own_folders.split(arguments)
    sys.argv[1:] = [*chain(*flags), *overrides]  # Hydra wants its flags on one side
    hydra_plugin.compose_once(arguments)
    hydra_plugin.tell_what_cannot_be_resolved()
    _run()


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    print_safely()
    try:
        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
