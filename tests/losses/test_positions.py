"""Many labelled positions an example: each valid one is an example to every loss on logits."""

import copy

import pytest
import torch
from loss_cases import CASES, file_of, make_objective

from kd_research.interfaces import Batch, Output
from kd_research.losses.positions import IGNORED, select

B, T, V = 3, 5, 7
ON_LOGITS = [
    name
    for name in sorted(CASES)
    if not CASES[name].overrides and "_layers:" not in file_of(name).read_text(encoding="utf-8")
    if name not in ("prob_mse", "minillm")  # the first also wants weights, the second whole texts
]


def make(seed=0, classes=V):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(B, T, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (B, T), generator=generator)
    labels[0, :2], labels[2, 3:] = IGNORED, IGNORED
    index = torch.tensor([4, 0, 9])
    return Output(student, {}), Output(teacher, {}), Batch(torch.zeros(B, T), labels, index)


def rows_of(student, teacher, batch):
    """The same positions, written out as examples by hand."""
    places = [(b, t) for b in range(B) for t in range(T) if batch.labels[b, t] != IGNORED]
    return (
        Output(torch.stack([student.logits[place] for place in places]), {}),
        Output(torch.stack([teacher.logits[place] for place in places]), {}),
        Batch(
            torch.zeros(len(places)),
            torch.stack([batch.labels[place] for place in places]),
            torch.tensor([int(batch.index[b]) * T + t for b, t in places]),
        ),
    )


def test_there_are_logits_losses_to_test():
    assert {"kd", "dkd", "nkd", "ttm", "wttm", "ctkd", "dist", "ce"} <= set(ON_LOGITS)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_loss_per_token_is_itself_on_the_tokens_as_examples(name):
    setting = make()
    objective = make_objective(name, *(["loss.ce_weight=0.5"] if name != "ce" else []))
    found = []
    for student, teacher, batch in (setting, rows_of(*setting)):
        leaf = student.logits.detach().requires_grad_()
        total, parts = copy.deepcopy(objective)(Output(leaf, {}), teacher, batch)
        total.backward()
        gradient = leaf.grad
        if gradient.ndim == 3:
            assert not gradient[setting[2].labels == IGNORED].any()
            gradient = gradient[setting[2].labels != IGNORED]
        found.append((total, parts, gradient))
    (one, one_parts, one_gradient), (other, other_parts, other_gradient) = found
    assert torch.equal(one, other)
    assert torch.equal(one_gradient, other_gradient)
    assert one_parts.keys() == other_parts.keys()
    assert all(torch.equal(one_parts[part], other_parts[part]) for part in one_parts)


def test_what_a_loss_sees():
    class Sees(torch.nn.Module):
        def forward(self, student, teacher, batch):
            self.seen = student, teacher, batch
            return student.logits.sum()

    sees, (student, teacher, batch) = Sees(), make()
    student = student._replace(features={"body": torch.randn(B, T, 2)})
    objective = make_objective("ce")
    objective.terms["sees"], objective.weights["sees"] = sees, 1.0
    objective(student, teacher, batch)
    seen_student, seen_teacher, seen = sees.seen
    expected = rows_of(student, teacher, batch)
    assert torch.equal(seen_student.logits, expected[0].logits)
    assert torch.equal(seen_teacher.logits, expected[1].logits)
    assert torch.equal(seen.labels, expected[2].labels)
    assert torch.equal(seen.index, expected[2].index)
    assert torch.equal(seen.valid, batch.labels != IGNORED)
    assert seen_student.features["body"].shape == (B, T, 2)


def test_pictures_have_their_classes_second():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, V, 3, 4, generator=generator)
    labels = torch.randint(V, (2, 3, 4), generator=generator)
    labels[1, 2, 3] = IGNORED
    batch = Batch(torch.zeros(2), labels, torch.tensor([5, 1]))
    total, _ = make_objective("ce")(Output(logits, {}), None, batch)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    student, _, chosen = select(Output(logits, {}), None, batch)
    assert student.logits.shape == (23, V)
    assert chosen.index[0] == 60
    assert chosen.index[12] == 12
    assert torch.equal(student.logits[13], logits[1, :, 0, 1])


def test_one_label_an_example_costs_nothing():
    output, batch = (
        Output(torch.randn(4, V), {}),
        Batch(torch.zeros(4), torch.arange(4), torch.arange(4)),
    )
    assert select(output, output, batch) == (output, output, batch)
    assert select(output, None, batch)[0] is output


def test_what_does_not_fit_is_told():
    student, teacher, batch = make()
    narrow = Output(teacher.logits[..., :-1], {})
    with pytest.raises(ValueError, match="vocabularies of 7 and 6; .* give both the data set's"):
        select(student, narrow, batch)
    with pytest.raises(
        ValueError, match=r"labels are \(3, 5\), but the model's logits \(3, 4, 7\)"
    ):
        select(Output(student.logits[:, :-1], {}), None, batch)
    nothing = batch._replace(labels=torch.full((B, T), IGNORED))
    with pytest.raises(ValueError, match=r"all 15 labels of a batch are -100.*\[4, 0, 9\]"):
        make_objective("ce")(student, None, nothing)
