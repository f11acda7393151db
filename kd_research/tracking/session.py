"""A W&B run from start to finish, and everything that must not go wrong around it."""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from kd_research.records.printable import masked, printable
from kd_research.records.variables import set_variables
from kd_research.tracking.temporary import import_wandb

log = logging.getLogger(__name__)

AHEAD = "KD_RESEARCH_WANDB_AHEAD"  # the mode and the output folder, where W&B is imported ahead
INIT_SECONDS = 30  # to reach the server, then offline
FINISH_SECONDS = 300  # to upload at the end; what is left can be synced later


class Mirror:
    """One W&B run, or none. Whatever W&B raises becomes one warning, and nothing else."""

    def __init__(self, run: Any = None) -> None:
        self._run = run
        self._warned = False
        self.exit_code: int | None = None

    def attempt(self, action: Callable[[Any], object]) -> None:
        """Do something with the W&B run if there is one."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # W&B raises its own, OSError, TypeError, pydantic's, ...
            if not self._warned:
                log.warning("W&B failed (%s); the run goes on without it", _one_line(error))
            self._warned = True

    def close(self, error: BaseException | None) -> None:
        """End the W&B run; as failed where the body raised or `exit_code` says so."""
        if self.exit_code is None and error is not None:
            reason = printable(f"{type(error).__name__}: {error}")
            self.attempt(lambda run: run.summary.update({"status": "failed", "error": reason}))
        exit_code = int(error is not None) or self.exit_code or 0
        self.attempt(lambda run: run.finish(exit_code=exit_code))
        self._run = None


def run_files(output_dir: Path, run_id: str) -> list[Path]:
    """W&B's offline files of the run with this id, the latest last."""
    name = glob.escape(f"run-{safe_id(run_id)}.wandb")
    return sorted((output_dir / "wandb").glob(f"offline-run-*/{name}"))


@contextmanager
def wandb_session(
    tracking: Mapping[str, Any], output_dir: Path, config: Mapping[str, Any]
) -> Iterator[Mirror]:
    """A started W&B run; afterwards no service, signal handler or variable of it is left.

    SIGTERM becomes SystemExit in the body, unless someone else handles it already, so that a
    stopped run is finished too. Offline, what an earlier run of this id left is then removed: a
    trial that is run again, after a kill, has one run, the whole one.
    """
    with surroundings(tracking["mode"], output_dir), _sigterm_raises():
        owner = "WANDB_SERVICE" not in os.environ
        earlier = run_files(output_dir, tracking["run_id"])
        mirror = Mirror(_start(tracking, output_dir, config, owner))
        try:
            yield mirror
        except BaseException as error:
            mirror.close(error)
            raise
        else:
            mirror.close(None)
        finally:
            stop_service(owner)
            if len(run_files(output_dir, tracking["run_id"])) > len(earlier):
                for file in earlier:
                    shutil.rmtree(file.parent, ignore_errors=True)


def _start(
    tracking: Mapping[str, Any], output_dir: Path, config: Mapping[str, Any], owner: bool
) -> Any:
    """A W&B run: online if asked for and possible, else offline; None if W&B cannot start."""
    try:
        _check_writable(output_dir / "wandb")
        import_wandb(output_dir)
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)  # a full disk: a traceback per line
        if tracking["mode"] == "online":
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise RuntimeError("no API key, see `wandb login`")
                return _init(tracking, "online", output_dir, config)
            except Exception as error:
                log.warning(
                    "W&B is not reachable (%s); tracking offline, upload later with `wandb sync`",
                    _one_line(error),
                )
                stop_service(owner)  # it still holds the run's id
        return _init(tracking, "offline", output_dir, config)
    except Exception as error:
        log.warning("W&B did not start (%s); the run goes on without it", _one_line(error))
        return None


def _init(
    tracking: Mapping[str, Any],
    mode: Literal["online", "offline"],
    output_dir: Path,
    config: Mapping[str, Any],
) -> Any:
    import wandb

    run_id = tracking["run_id"]
    return wandb.init(
        project=tracking["project"],
        entity=tracking.get("entity"),
        group=tracking.get("group"),
        job_type=tracking.get("job_type"),
        id=safe_id(run_id),
        name=run_id,
        tags=list(tracking.get("tags") or ()),
        config=dict(config),
        dir=str(output_dir),
        mode=mode,  # the configuration's word, whatever WANDB_MODE says
        reinit="create_new",  # a caller's own run stays as it is
        settings=wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            symlink=False,  # to the latest run: trials run side by side
            x_disable_meta=any(masked(word) != word for word in sys.argv),  # it has the command
            x_save_requirements=False,  # the record has the versions
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
        ),
    )


def stop_service(owner: bool) -> None:
    """Stop W&B's background process, if this run started it: forked workers run no atexit."""
    wandb = sys.modules.get("wandb")
    if owner and wandb is not None:
        with suppress(Exception):
            wandb.teardown()


def own_service() -> dict[str, str | None]:
    """W&B's variable of this process's service, if it has one; a parent's may end before us."""
    stated = os.environ.get("WANDB_SERVICE", "")
    return {"WANDB_SERVICE": stated if f"-{os.getpid()}-" in stated else None}


@contextmanager
def surroundings(mode: str, output_dir: Path) -> Iterator[None]:
    """W&B's variables as they should be in the body; a person's own folders stay."""
    home = output_dir / "wandb"
    given = os.environ.get
    values = own_service() | {
        "WANDB_CACHE_DIR": given("WANDB_CACHE_DIR", str(home / "cache")),
        "WANDB_DATA_DIR": given("WANDB_DATA_DIR", str(home / "data")),
        "WANDB_SILENT": "true",
    }
    if mode != "online":
        values["WANDB_ERROR_REPORTING"] = "false"  # it is sent over the network
    with set_variables(values):
        yield


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as SystemExit(143), where nobody handles it and Python lets us."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_writable(directory: Path) -> None:
    """Refuse early: W&B itself would quietly write to the system's temporary folder."""
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} is not writable")


def safe_id(text: str) -> str:
    """The text with what W&B refuses in an id replaced; at most 128 characters."""
    return re.sub(r"[/\\#?%:\s]", "-", text)[-128:]


def _one_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])
