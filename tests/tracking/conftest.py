"""No account, one run's configuration, and the folder of a small sweep."""

import os

import pytest

from kd_research.records.record import RunRecord, write_json, write_record, write_text


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    """Whatever the machine has of W&B's variables and logins must not matter here."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


@pytest.fixture
def config(tmp_path):
    return {
        "seed": 3,
        "output_dir": str(tmp_path / "outputs"),
        "student": {"model": {"_target_": "kd_research.models.mlp.MLP", "width": 16}},
        "loss": {"temperature": 4.0, "lambda": 0.5},
        "tracking": {
            "mode": "offline",
            "project": "kd_research",
            "entity": None,
            "group": "digits",
            "job_type": "trial",
            "run_id": "digits-t0007",
            "tags": ["kd", "digits"],
        },
    }


@pytest.fixture
def settings(config):
    """What the sweeper hands over."""
    return {**config["tracking"], "output_dir": config["output_dir"]}


@pytest.fixture
def sweep_directory(tmp_path):
    """Three trials on two objectives; the third is dominated, a fourth failed."""
    teacher = tmp_path / "outputs" / "teachers" / "digits-0123"
    write_text(teacher / "metrics.jsonl", '{"epoch": 0, "val_accuracy": 0.5}\n')
    write_text(teacher / "weights.pt", "a teacher")
    write_json(teacher / "content.json", {"recipe": {"max_epochs": 1}})
    origin = {
        "teacher_fingerprint": "0123456789abcdef" * 4,
        "teacher_path": str(teacher / "weights.pt"),
    }
    directory = tmp_path / "outputs" / "sweeps" / "digits"
    spec = {
        "name": "digits",
        "objectives": {"val_accuracy": "maximize", "num_params": "minimize"},
        "reference_point": {"val_accuracy": 0.0, "num_params": 1000},
        "n_trials": 4,
    }
    write_json(directory / "sweep.yaml", spec)
    for number, (accuracy, size) in enumerate([(0.5, 200), (0.75, 600), (0.5, 800), (None, None)]):
        folder = directory / "trials" / f"{number:04d}"
        params = {"loss.temperature": 2.0 + number, "student.model.width": 8 * number}
        write_json(folder / "proposal.json", {"number": number, "params": params})
        record = RunRecord(
            status="completed" if accuracy else "failed",
            config={},
            seed=0,
            metrics={"val_accuracy": accuracy, "teacher_val_accuracy": accuracy and 0.875},
            costs={"num_params": size},
            provenance=origin if accuracy else {},
            error=None if accuracy else "RuntimeError: out of memory",
        )
        write_record(record, folder)
    return directory
