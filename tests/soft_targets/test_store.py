"""Cached teacher outputs: the same fit as with the live teacher, whatever happens to the store."""

import multiprocessing
import os
import signal

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.interfaces import Output
from kd_research.soft_targets import row_file
from kd_research.soft_targets import store as soft_targets
from kd_research.soft_targets.store import LOGITS, SoftTargets, TooLargeError
from kd_research.trial import assembly as parts
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts

AUGMENTED = ["augment@dataset.augment=crop_flip", "dataset.augment.crop=1"]


def settings(output_dir, *overrides):
    """A composed run: a small net with batch normalisation teaches a smaller one, 3 epochs."""
    register_resolvers()
    hydra_plugin.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config",
            [
                "teacher=resnet8",
                "student=resnet8",
                "teacher.model.width=4",
                "student.model.width=2",
                "teacher.trainer.max_epochs=1",
                "trainer.max_epochs=3",
                "dataset.subset=160",
                "tracking=disabled",
                "efficiency.num_runs=5",
                f"output_dir={output_dir}",
                *overrides,
            ],
        )
    return OmegaConf.to_container(
        OmegaConf.masked_copy(config, [k for k in config if k != "hydra"])
    )


def resolved(output_dir, *overrides):
    return OmegaConf.to_container(OmegaConf.create(settings(output_dir, *overrides)), resolve=True)


def fit(output_dir, name, *overrides):
    """(the record, the student's weights as one vector)."""
    folder = output_dir / name
    record = trial.run(resolved(output_dir, *overrides), folder)
    assert record.status == "completed", record.error
    weights = torch.load(folder / "weights.pt", weights_only=True)
    floats = [value.flatten() for value in weights.values() if value.is_floating_point()]
    return record, torch.cat(floats)


def cached(record):
    return record.provenance["soft_targets"]


@pytest.mark.parametrize("how", [[], AUGMENTED, [*AUGMENTED, "soft_targets.views=2"]])
def test_a_fit_with_kept_outputs_is_the_live_fit(how, tmp_path):
    record, live = fit(tmp_path, "live", *how, "soft_targets.cache=false")
    assert cached(record) is None
    record, first = fit(tmp_path, "first", *how)
    views = {0: 1, 2: 3, 3: 2}[len(how)]
    assert cached(record)["views"] == views
    assert cached(record)["computed"] == 160 * views
    record, second = fit(tmp_path, "second", *how)
    assert cached(record)["computed"] == 0
    assert torch.equal(first, second)
    torch.testing.assert_close(first, live, rtol=1e-3, atol=1e-5)


def test_the_teacher_is_evaluated_once(tmp_path, monkeypatch):
    names = ("teacher_val_accuracy", "teacher_test_accuracy", "teacher_kl", "test_teacher_kl")
    none, asked, predict = "trainer.max_epochs=0", [], parts.predict

    def count(*given):
        asked.append(given)
        return predict(*given)

    monkeypatch.setattr(parts, "predict", count)
    live, _ = fit(tmp_path, "live", none, "soft_targets.cache=false")
    sizes = live.provenance["split_sizes"]  # whatever is cached of the training split
    assert sum(len(given[2]) for given in asked) == sizes["val"] + sizes["test"]
    smaller = ["soft_targets.dtype=float16", "soft_targets.top_k=3"]  # of the training split alone
    monkeypatch.setattr(parts, "predict", lambda *_: pytest.fail("the teacher was asked again"))
    again, _ = fit(tmp_path, "again", none, "soft_targets.cache=false")
    first, _ = fit(tmp_path, "first", none)
    second, _ = fit(tmp_path, "second", none, "loss.temperature=2")
    fit(tmp_path, "third", "trainer.max_epochs=1", *smaller)
    for name in names[:2]:
        assert live.metrics[name] == first.metrics[name] == second.metrics[name]
    for record in (again, first):
        assert [record.metrics[name] for name in names] == [live.metrics[name] for name in names]


def test_logits_too_large_to_be_cached_are_asked_for_once_a_run(tmp_path, monkeypatch):
    asked, predict = [], parts.predict

    def count(*given):
        asked.append(given)
        return predict(*given)

    monkeypatch.setattr(parts, "predict", count)
    fit(tmp_path, "run", "trainer.max_epochs=0", "soft_targets.max_gb=1e-9")
    assert len(asked) == 2


def test_filled_ahead_is_filled_lazily(tmp_path):
    how = [*AUGMENTED, "soft_targets.views=2"]
    record, ahead = fit(tmp_path / "a", "run", *how, "soft_targets.fill=ahead")
    assert cached(record)["computed"] == 320
    _, lazily = fit(tmp_path / "b", "run", *how)
    torch.testing.assert_close(ahead, lazily, rtol=1e-3, atol=1e-5)


def test_mixed_examples_have_kept_outputs_too(tmp_path):
    how = [*AUGMENTED, "dataset.augment.cutmix=1.0", "dataset.augment.mixup=0.5"]
    _, live = fit(tmp_path, "live", *how, "soft_targets.cache=false")
    _, first = fit(tmp_path, "first", *how)
    torch.testing.assert_close(first, live, rtol=1e-3, atol=1e-5)


def test_another_teacher_data_or_view_is_another_store(tmp_path):
    def key_of(*how):
        return Parts(resolved(tmp_path, "trainer.max_epochs=1", *how)).module.cached.key

    record, _ = fit(tmp_path, "filled", "trainer.max_epochs=1")
    assert cached(record)["computed"] == 160
    others = {
        key_of(*how)
        for how in [
            ["teacher.seed=1"],
            ["dataset.subset=100"],
            ["dataset.split_seed=1"],
            AUGMENTED,
            [*AUGMENTED, "seed=1"],
            [*AUGMENTED, "dataset.augment.cutout=2"],
            ["soft_targets.dtype=float16"],
            ["soft_targets.top_k=3"],
        ]
    }
    assert len(others | {cached(record)["key"]}) == 9
    same = ["seed=1", "loss.temperature=2", "student.model.width=3", "trainer.max_epochs=2"]
    assert {key_of(setting) for setting in same} == {cached(record)["key"]}
    record, _ = fit(tmp_path, "found", *same)
    assert cached(record)["computed"] == 0


def _fill(config, folder, kill_after=None):
    """In a process of its own: a run, which may kill itself in the middle of a write."""
    if kill_after is not None:
        real = soft_targets.RowFile.write

        def write(self, index, rows):
            if write.calls == kill_after:
                self.rows[index[0], :2] = 7  # half a row
                os.kill(os.getpid(), signal.SIGKILL)
            write.calls += 1
            real(self, index, rows)

        write.calls = 0
        soft_targets.RowFile.write = write
    trial.run(config, folder)


def test_two_processes_fill_one_store(tmp_path):
    config = resolved(tmp_path, *AUGMENTED)
    Parts(config)  # the teacher
    context = multiprocessing.get_context("fork")  # which has imported torch
    fillers = [
        context.Process(
            target=_fill, args=(resolved(tmp_path, *AUGMENTED, f"loss.temperature={t}"), path)
        )
        for t, path in ((4, tmp_path / "a"), (2, tmp_path / "b"))
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
        assert filler.exitcode == 0
    record, from_store = fit(tmp_path, "after", *AUGMENTED)
    assert cached(record)["computed"] == 0
    _, live = fit(tmp_path, "live", *AUGMENTED, "soft_targets.cache=false")
    torch.testing.assert_close(from_store, live, rtol=1e-3, atol=1e-5)


def test_a_process_killed_in_a_write_spoils_nothing(tmp_path):
    config = resolved(tmp_path, *AUGMENTED)
    Parts(config)
    victim = multiprocessing.get_context("fork").Process(
        target=_fill, args=(config, tmp_path / "victim", 7)
    )
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    record, weights = fit(tmp_path, "after", *AUGMENTED)
    assert 0 < cached(record)["computed"] < 480
    _, live = fit(tmp_path, "live", *AUGMENTED, "soft_targets.cache=false")
    torch.testing.assert_close(weights, live, rtol=1e-3, atol=1e-5)


def test_a_process_killed_while_it_makes_a_file_leaves_none_beside(tmp_path, monkeypatch):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", die)
        victim = multiprocessing.get_context("fork").Process(target=store, args=(tmp_path,))
        victim.start()
        victim.join()
    assert victim.exitcode == -signal.SIGKILL
    made = store(tmp_path)
    found = {path.suffix for path in made.directory.iterdir()}
    assert found == {".json", ".bin", ".lock"}


def test_damage_is_noticed_and_mended(tmp_path, caplog):
    record, before = fit(tmp_path, "before", *AUGMENTED)
    folder = tmp_path / "soft_targets" / cached(record)["key"]
    file = folder / "view-0001.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1  # one bit
    file.write_bytes(content)
    (folder / "view-0002.bin").write_bytes(b"short")
    record, after = fit(tmp_path, "after", *AUGMENTED)
    assert cached(record)["computed"] == 1 + 160
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-5)  # a batch of one rounds apart
    assert "1 rows in" in caplog.text
    assert "another process is writing them, or they are damaged" in caplog.text
    assert "has a wrong size and is made anew" in caplog.text


def store(tmp_path, num=50, classes=20, **options):
    shapes = {LOGITS: (classes,)} | options.pop("features", {})
    made = SoftTargets(tmp_path, "key", num, shapes, options.pop("views", 1), **options)
    made.start_epoch(0)
    return made


def outputs(num=50, classes=20, **features):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(num, classes, generator=generator)
    made = {name: torch.randn(num, *shape, generator=generator) for name, shape in features.items()}
    return Output(logits, made)


def ask(cached, given, index):
    index = torch.as_tensor(index)

    def compute(rows):
        at = index[rows]
        return Output(given.logits[at], {name: f[at] for name, f in given.features.items()})

    return cached.outputs(index, compute)


def test_features_come_back_with_their_shapes(tmp_path):
    given = outputs(pool=(7,), map=(3, 2, 2))
    made = store(tmp_path, features={"pool": (7,), "map": (3, 2, 2)})
    for _ in range(2):
        got = ask(made, given, [4, 9, 2])
        assert torch.equal(got.logits, given.logits[[4, 9, 2]])
        assert torch.equal(got.features["map"], given.features["map"][[4, 9, 2]])
        assert torch.equal(got.features["pool"], given.features["pool"][[4, 9, 2]])
    assert made.computed == 3
    assert made.missing().numel() == 47


def test_half_precision_is_what_the_first_fit_sees_too(tmp_path):
    given = outputs()
    made = store(tmp_path, dtype="float16")
    first = ask(made, given, range(50)).logits
    assert torch.equal(first, given.logits.half().float())
    made.start_epoch(1)
    assert torch.equal(ask(made, given, range(50)).logits, first)
    huge = Output(given.logits * 1e6, {})
    with pytest.raises(ValueError, match="not finite in torch.float16"):
        ask(store(tmp_path / "other", dtype="float16"), huge, [0])


def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(tmp_path):
    given = outputs()
    got = ask(store(tmp_path, top_k=5), given, range(50)).logits
    largest, classes = given.logits.topk(5)
    torch.testing.assert_close(got.gather(1, classes), largest)
    whole, kept_mass = given.logits.softmax(1), got.softmax(1)
    torch.testing.assert_close(kept_mass.gather(1, classes), whole.gather(1, classes))
    rest = kept_mass.scatter(1, classes, 0)
    torch.testing.assert_close(rest.sum(1), whole.scatter(1, classes, 0).sum(1))
    others = rest[rest > 0].view(50, 15)
    torch.testing.assert_close(others, others[:, :1].expand(-1, 15))


def test_too_large_says_what_fits(tmp_path):
    with pytest.raises(TooLargeError, match=r"would take 0.9 GB .*50 views.*soft_targets.views=5,"):
        store(tmp_path, num=200_000, views=50, max_gb=0.09)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, r"must be one of \['float16', 'float32'\], got 'int8'"),
        ({"top_k": 20}, "must be in 1 to 19, got 20"),
        ({"views": 0}, "views must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_told(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        store(tmp_path, **options)


def test_a_store_above_the_bound_is_an_error_or_a_live_teacher(tmp_path, caplog):
    small = ["soft_targets.max_gb=0.000001", "trainer.max_epochs=1"]
    record, _ = fit(tmp_path, "live", *small)
    assert cached(record) is None
    assert "the teacher runs live: the cached teacher outputs would take" in caplog.text
    folder = tmp_path / "refused"
    record = trial.run(resolved(tmp_path, *AUGMENTED, *small, "soft_targets.views=2"), folder)
    assert record.status == "failed"
    assert "soft_targets.max_gb is 1e-06; type soft_targets.views=" in record.error


def test_no_room_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="no room for 0 MB of cached teacher outputs .* output_dir="):
        store(tmp_path)


def test_a_whole_view_asks_no_teacher(tmp_path):
    given = outputs()
    made = store(tmp_path)
    ask(made, given, range(50))
    made.start_epoch(1)
    got = made.outputs(torch.arange(50), lambda rows: pytest.fail("asked again"))
    assert torch.equal(got.logits, given.logits)


def test_the_same_weights_of_another_model_are_another_teacher(tmp_path):
    torch.save({"2.weight": torch.randn(10, 64), "2.bias": torch.zeros(10)}, tmp_path / "given.pt")

    def logits_and_key(slope):
        config = resolved(tmp_path, f"teacher.checkpoint={tmp_path / 'given.pt'}")
        linear = {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 10}
        layers = [
            {"_target_": "torch.nn.Flatten"},
            {"_target_": "torch.nn.LeakyReLU", "negative_slope": slope},
            linear,
        ]
        config["teacher"]["model"] = {"_target_": "torch.nn.Sequential", "_args_": layers}
        made = Parts(config)
        return made.teacher_logits("val"), made.module.cached.key

    (plain, first), (steep, second) = logits_and_key(0.0), logits_and_key(9.0)
    assert first != second
    assert not torch.equal(plain, steep)


def test_the_teacher_works_where_the_fit_will_be(tmp_path, monkeypatch):
    meta, asked = torch.device("meta"), set()  # as a GPU, but there is one everywhere

    def rows(self, index, compute):
        asked.add(compute(index).logits.device)

    monkeypatch.setattr(SoftTargets, "rows", rows)
    made = Parts(resolved(tmp_path, "soft_targets.fill=ahead"), meta)
    assert asked == {meta}
    assert {parameter.device for parameter in made.teacher.module.parameters()} == {meta}
    assert {parameter.device.type for parameter in made.student.parameters()} == {"cpu"}


def test_a_view_is_checked_in_pieces(tmp_path, monkeypatch):
    made, sizes = store(tmp_path), []
    ask(made, outputs(), [3, 40])
    whole = row_file.RowFile._checksums

    def checksums(self, rows, index):
        sizes.append(rows.numel())
        return whole(self, rows, index)

    monkeypatch.setattr(row_file, "CHUNK_WORDS", 100)
    monkeypatch.setattr(row_file.RowFile, "_checksums", checksums)
    assert made.missing().tolist() == [row for row in range(50) if row not in (3, 40)]
    assert max(sizes) <= 100
    assert sum(sizes) == made._file.rows.numel()
