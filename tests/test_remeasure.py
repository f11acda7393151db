import torch

from kd_research.configuration.config import save
from kd_research.records.record import read_record, write_json, write_record
from kd_research.remeasure import main
from kd_research.report.__main__ import main as report
from kd_research.trial import run as trial


def test_costs_are_measured_again_and_nothing_else_changes(tiny, tmp_path, capsys):
    config = tiny()
    folder = tmp_path / "sweep" / "trials" / "0000"
    save(config, folder / "config.yaml")
    before = trial.run(config, folder)
    assert before.costs["latency_p95_ms"] >= before.costs["latency_ms"] > 0
    assert before.provenance["measurement"]["num_threads"] == torch.get_num_threads()
    disturbed = {**before.costs, "latency_ms": 1e6, "batch_latency_ms": None}
    before.costs.update(disturbed)
    write_record(before, folder)

    write_json(folder / "proposal.json", {"number": 0, "params": {}})
    write_json(folder.parents[1] / "sweep.yaml", {"objectives": {"latency_ms": "minimize"}})
    assert report([str(folder.parents[1]), "--remeasure"]) == 0
    assert "best latency_ms" in capsys.readouterr().out

    after = read_record(folder)
    assert 0 < after.costs["latency_ms"] < 1e5
    assert after.costs["batch_latency_ms"] > 0
    assert after.costs["macs"] == before.costs["macs"]
    assert after.metrics == before.metrics
    assert after.selection == before.selection

    (folder / "weights.pt").unlink()
    assert main([str(folder)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
