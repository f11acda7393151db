"""A sweep is what was typed: mappings whole, groups where they go, no other sweeper."""

import sys

import pytest
import warm
from sweep_commands import make_plan
from tiny import TINY

from kd_research.configuration.overrides import as_whole
from kd_research.sweep.methods import Comparison

BASE = ["sweep.name=s", "tracking=disabled", "sampler=random"]


def test_objectives_are_those_that_were_typed(tmp_path):
    """Mappings merge in OmegaConf: the second objective of the default stayed."""
    plan = make_plan(*BASE, f"output_dir={tmp_path}", "sweep.objectives={val_accuracy: maximize}")
    assert plan.objectives == {"val_accuracy": "maximize"}
    assert plan.config.sweep.reference_point == {"val_accuracy": 0.8}


def test_a_space_may_have_keys_that_the_default_has_not(tmp_path):
    """It was refused, key by key, though it is taken whole."""
    typed = ["sweep.space={optimizer.lr: 'interval(0.001,0.1)', seed: 'range(3)'}"]
    typed += ["sweep.objectives={val_nll: minimize}", f"output_dir={tmp_path}"]
    plan = make_plan(*BASE, *as_whole(typed))
    assert [item.key for item in plan.space] == ["optimizer.lr", "seed"]
    assert plan.objectives == {"val_nll": "minimize"}


def test_methods_are_tuned_for_the_objective_that_was_typed(tmp_path):
    """It was merged with val_accuracy, and refused as two."""
    given = ["sweep=methods", "+sweep.methods.kd.overrides={loss: kd}", "sweep.against=[]"]
    given += ["+sweep.methods.kd.space={loss.temperature: 'interval(1,20)'}"]
    typed = as_whole(["sweep.objectives={val_nll: minimize}"])
    comparison = make_plan(*BASE, *given, *typed, f"output_dir={tmp_path}", kind=Comparison)
    plans = [*comparison.tunings.values(), comparison.final({"kd": {}})]
    assert [plan.objectives for plan in plans] == [{"val_nll": "minimize"}] * 2
    assert plans[0].composition.compose({}).sweep.objectives == {"val_nll": "minimize"}


def test_a_group_is_swept_where_it_goes(tmp_path):
    plan = make_plan(*BASE, f"output_dir={tmp_path}", "augment@dataset.augment=none,crop_flip")
    (item,) = [item for item in plan.space if item.is_group]
    made = {
        choice: plan.composition.with_groups(((item.key, choice),)).dataset.augment
        for choice in ("none", "crop_flip")
    }
    assert made["none"] != made["crop_flip"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra/sweeper=basic", "hydra/sweeper=basic runs no sweep of this package"),
        ("+hydra.sweeper.params={a: 1}", "hydra.sweeper.params is of another sweeper"),
    ],
)
def test_another_sweeper_is_refused(override, message, tmp_path):
    """It ran the first of three settings alone, and ended with 0."""
    done = warm.run(
        [sys.executable, "-m", "kd_research.run", "-m", *TINY, f"output_dir={tmp_path}"]
        + ["loss.temperature=1,2,3", override],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("record.json"))
