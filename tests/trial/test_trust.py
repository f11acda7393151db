"""A folder from somebody else runs nothing that is not known, unless it is trusted."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import warm
from omegaconf import OmegaConf
from sweep_commands import PATHS
from tiny import TINY, Compose, composed, plain

from kd_research.configuration import trust
from kd_research.configuration.config import ROOT, save
from kd_research.records.record import CONFIG_NAME, RunRecord, write_record

CONF = ROOT / "conf"


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def folder_with(config, at: Path, *changes: tuple[str, object]) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    for key, value in changes:
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    save(config, at / CONFIG_NAME)
    return at


def payload(at: Path, target: str) -> dict[str, object]:
    path = at.parent / "payload.pkl"
    path.write_bytes(pickle.dumps(Payload()))
    given = {"f": str(path), "weights_only": False} if target == "torch.load" else {"x": str(path)}
    return {"_target_": target, **given}


@pytest.mark.parametrize(
    "target",
    ["torch.load", "torch.hub.load", "pandas.read_pickle", "joblib.load", "os.system"]
    + ["kd_research.data.store.shutil.rmtree", "builtins.exec", "torch.utils.collect_env.run"]
    + ["kd_research.pools.slurm.subprocess.run", "kd_research.models.mlp.nn.init.warnings.warn"],
)
def test_what_loads_or_runs_is_foreign(target: str) -> None:
    assert list(trust.foreign({"student": {"model": {"_target_": target}}}, CONF))


def test_what_the_package_ships_is_known() -> None:
    for overrides in ([], ["loss=dkd", "student=cnn"], ["teacher=resnet20", "loss=crd"]):
        assert list(trust.foreign(plain(composed(*overrides)), CONF)) == []
    known = ["torch.nn.Linear", "timm.create_model", "transformers.BertConfig", "peft.LoraConfig"]
    for target in known:
        assert list(trust.foreign({"_target_": target}, CONF)) == []
    assert list(trust.foreign({"a": [{"trust_remote_code": True}]}, CONF))
    assert list(trust.foreign({"a": "${oc.env:HOME}"}, CONF)) == ["a: ${oc.env:HOME}"]


def call(module: str, *arguments: object, at: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    done = warm.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=at,
        env=environment,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["trial", "export", "remeasure"])
def test_a_received_folder_runs_nothing(command: str, tiny: Compose, tmp_path: Path) -> None:
    at = folder_with(tiny(), tmp_path / "run")
    folder_with(tiny(), at, ("student.model", payload(at, "torch.load")))
    write_record(RunRecord("completed", {}, 0), at)
    code, printed = call(f"kd_research.{command}", at, at=tmp_path)
    assert code != 0
    assert "student.model._target_: torch.load" in printed
    assert "--trust" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "executed").exists()
    if command == "trial":  # it works, and it is the refusal that counts
        call(f"kd_research.{command}", at, "--trust", at=tmp_path)
        assert (tmp_path / "executed").exists()


def test_a_teacher_from_a_received_folder(tiny: Compose, tmp_path: Path) -> None:
    at = folder_with(tiny(), tmp_path / "run")
    folder_with(tiny(), at, ("student.model", payload(at, "torch.load")))
    overrides = ["teacher=run", f"teacher.run={at}", f"output_dir={tmp_path}/out"]
    wanted = [text for text in TINY if not text.startswith("teacher")]
    code, printed = call("kd_research.run", *wanted, *overrides, at=tmp_path)
    assert code != 0
    assert "torch.load" in printed
    assert "--trust" in printed
    assert not (tmp_path / "executed").exists()


def test_ones_own_command_needs_no_trust(tmp_path: Path) -> None:
    overrides = ["student.model._target_=sweep_probe.Probe", f"hydra.run.dir={tmp_path}/r"]
    code, printed = call(
        "kd_research.run", *TINY, *overrides, f"output_dir={tmp_path}/out", at=tmp_path
    )
    assert code == 0, printed
    code, printed = call("kd_research.trial", tmp_path / "r", at=tmp_path)
    assert code == 2
    assert "sweep_probe.Probe" in printed
    code, printed = call("kd_research.trial", tmp_path / "r", "--trust", at=tmp_path)
    assert code == 0, printed
