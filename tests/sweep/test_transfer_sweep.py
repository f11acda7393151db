"""A sweep of what a transfer set is made with."""

from sweep_commands import make_plan


def test_the_set_that_is_made_before_the_trials_is_of_the_search():
    plan = make_plan(
        *("transfer=class_impressions", "transfer.num_examples=20,40", "transfer.lr=0.1"),
        *("transfer.iterations=int(interval(2,9))", "loss.lambda=1", "loss.temperature=4,8"),
    )
    stated = plan.composition.prepared()
    assert stated.transfer.num_examples == 20
    assert stated.transfer.iterations == 2
    assert stated.loss.temperature == plan.config.loss.temperature


def test_a_choice_of_transfer_sets_is_prepared_without_one():
    plan = make_plan("transfer=none,class_impressions", "loss.lambda=1")
    assert not plan.composition.prepared().transfer
