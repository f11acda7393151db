import numpy as np
import pytest

from kd_research.records.record import RunRecord, write_record
from kd_research.report.__main__ import main
from kd_research.report.paired import compare_runs, pair


def write_run(folder, labels, student):
    write_record(RunRecord("completed", {}, 0), folder)
    arrays = {f"{split}_labels": labels for split in ("val", "test")}
    arrays |= {f"{split}_student": student for split in ("val", "test")}
    np.savez_compressed(folder / "predictions.npz", **arrays)
    return folder


def test_mcnemar_by_hand():
    # 6 examples right for the first alone, 1 for the second alone: twice the tail of B(7, 1/2).
    one = np.array([True] * 6 + [False] + [True] * 93)
    other = np.array([False] * 6 + [True] + [True] * 93)
    found = pair("val", one, other)
    assert found.only == (6, 1)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.accuracies == pytest.approx((0.99, 0.94))
    assert found.interval[0] < -0.05 < found.interval[1]
    back = pair("val", other, one)
    assert back.p_value == found.p_value
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=0.011)


def test_the_interval_of_the_difference_has_its_normal_size():
    rng = np.random.default_rng(1)
    one, other = rng.random(4000) < 0.8, rng.random(4000) < 0.83
    found = pair("test", one, other)
    difference = other.astype(float) - one
    error = difference.std() / 4000**0.5
    expected = (difference.mean() - 1.96 * error, difference.mean() + 1.96 * error)
    assert found.interval == pytest.approx(expected, abs=0.002)


def test_equal_students_are_not_told_apart():
    right = np.array([True, False, True])
    found = pair("val", right, right)
    assert (found.p_value, found.interval) == (1.0, (0.0, 0.0))


def test_two_runs_are_compared_by_the_report(tmp_path, capsys):
    labels = np.arange(10) % 3
    one = write_run(tmp_path / "one", labels, labels)
    other = write_run(tmp_path / "other", labels, np.where(np.arange(10) < 4, 9, labels))
    assert main([str(one), str(other)]) == 0
    text = capsys.readouterr().out
    assert "val: one 100.00%, other 60.00% of 10 examples; difference -40.00 points" in text
    assert "right alone: 4 and 0 examples; McNemar's exact p = 0.125" in text


def test_runs_on_other_examples_do_not_compare(tmp_path, capsys):
    one = write_run(tmp_path / "one", np.zeros(4, int), np.zeros(4, int))
    other = write_run(tmp_path / "other", np.ones(4, int), np.zeros(4, int))
    assert main([str(one), str(other)]) == 2
    assert "not evaluated on the same val examples" in capsys.readouterr().err
    (other / "predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"run the folder again with `python -m"):
        compare_runs(one, other)


def test_runs_on_text_are_told_apart(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "predictions.npz", val_count=np.ones(3), val_nll=np.ones(3))
    with pytest.raises(ValueError, match="many labelled positions an example, as text has"):
        compare_runs(tmp_path / "one", tmp_path / "other")
