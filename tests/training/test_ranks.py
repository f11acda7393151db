"""Several processes a trial, inside a sweep."""

from sweep_commands import folder, processes_of, proposals, records, sweep


def test_four_trials_of_two_processes_one_of_which_fails(tmp_path):
    code, printed = sweep(
        tmp_path,
        "sweep.n_trials=4",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.accelerator=cpu",
        "sweep.workers=1",
        "student.model._target_=sweep_probe.FailsOnRankOne",
        "+student.model.on=0,1",
    )
    assert code == 0, printed
    found, asked = records(tmp_path), proposals(tmp_path)
    assert sorted(found) == list(range(4))
    for number, record in found.items():
        failed = asked[number]["student.model.on"] == 1
        assert record["status"] == ("failed" if failed else "completed"), record["error"]
        if failed:
            assert record["error"] == "rank 1: ArithmeticError: only here"
        else:
            assert record["metrics"]["val_accuracy"] > 0
            lines = (folder(tmp_path) / "trials" / f"{number:04d}" / "metrics.jsonl").read_text()
            assert lines.count('"epoch": 0') == 1
    assert {record["status"] for record in found.values()} == {"completed", "failed"}
    assert processes_of(tmp_path) == []
