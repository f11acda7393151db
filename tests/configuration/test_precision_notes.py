"""What is said of bfloat16 on a processor that has no kernels for it."""

import pytest

from kd_research.configuration import trainer_checks

WITHOUT, WITH = "fpu sse2 avx avx2 fma", "fpu avx2 avx512f avx512bw"
LOCAL = {"_target_": "kd_research.pools.local.LocalPool"}


@pytest.fixture
def said(tmp_path, monkeypatch):
    def notes(flags, trainer, teacher=None, pool=LOCAL):
        file = tmp_path / "cpuinfo"
        if flags is not None:
            file.write_text(f"processor\t: 0\n{flags}\n")
        monkeypatch.setattr(trainer_checks, "CPU_FILE", str(file))
        monkeypatch.setattr(trainer_checks, "GPU_FILES", (str(tmp_path / "gpu"),))
        config = {"trainer": trainer, "teacher": teacher, "pool": pool}
        return list(trainer_checks.precision_notes(config))

    return notes


def test_bf16_on_a_processor_without_its_kernels_is_said_of_each_trainer(said):
    bf16 = {"precision": "bf16-mixed"}
    (student,) = said(f"flags\t\t: {WITHOUT}", bf16)
    assert "trainer.precision=bf16-mixed on a processor without AVX-512" in student
    both = said(f"flags\t\t: {WITHOUT}", bf16, {"trainer": bf16})
    assert "teacher.trainer.precision=32-true is fast here" in both[1]


@pytest.mark.parametrize(
    ("flags", "precision", "pool"),
    [
        (f"flags\t\t: {WITH}", "bf16-mixed", LOCAL),
        ("Features\t: fp asimd bf16", "bf16-mixed", LOCAL),  # ARM
        (None, "bf16-mixed", LOCAL),  # no Linux
        (f"flags\t\t: {WITHOUT}", "32-true", LOCAL),
        (f"flags\t\t: {WITHOUT}", "bf16-mixed", {"_target_": "kd_research.pools.ray_pool.RayPool"}),
    ],
)
def test_nothing_is_said_where_it_is_fast_or_elsewhere(said, flags, precision, pool):
    assert said(flags, {"precision": precision}, pool=pool) == []


def test_nothing_is_said_beside_a_gpu(said, tmp_path):
    (tmp_path / "gpu").touch()
    assert said(f"flags\t\t: {WITHOUT}", {"precision": "bf16-mixed"}) == []
