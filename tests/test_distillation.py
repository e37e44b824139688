"""Losses of distillation are those of the papers, and reach the student alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from deepcomp.nn.distillation import hint_loss, soft_target_loss  # noqa: E402


def logits(seed, n=6, n_classes=5):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(n, n_classes, generator=generator, dtype=torch.float64) * 3
    return tensor.requires_grad_()


@given(st.integers(0, 999), st.floats(0.5, 20))
def test_soft_targets_are_the_divergence_by_its_definition(seed, temperature):
    student, teacher = logits(seed), logits(seed + 1000)
    p = (teacher / temperature).exp() / (teacher / temperature).exp().sum(1, keepdim=True)
    q = (student / temperature).exp() / (student / temperature).exp().sum(1, keepdim=True)
    expected = temperature**2 * (p * (p / q).log()).sum() / len(p)
    found = soft_target_loss(student, teacher, temperature)
    torch.testing.assert_close(found, expected)
    assert soft_target_loss(teacher, teacher, temperature).abs() < 1e-12


def test_gradients_of_soft_targets_are_those_of_the_paper_and_spare_the_teacher():
    student, teacher = logits(1), logits(2)
    soft_target_loss(student, teacher, 3.0).backward()
    p, q = (torch.softmax(x.detach() / 3, 1) for x in (teacher, student))
    torch.testing.assert_close(student.grad, 3 * (q - p) / len(p))
    assert teacher.grad is None


def test_gradients_of_soft_targets_keep_their_size_at_high_temperatures():
    student, teacher = logits(1), logits(2)
    difference = (student - teacher).detach()
    difference -= difference.mean(1, keepdim=True)
    soft_target_loss(student, teacher, 1e5).backward()
    torch.testing.assert_close(student.grad, difference / 5 / 6, rtol=1e-3, atol=1e-4)


@given(st.integers(0, 999))
def test_hints_are_the_mean_squared_error_and_spare_the_teacher(seed):
    student, teacher = logits(seed), logits(seed + 1000)
    loss = hint_loss(student, teacher)
    torch.testing.assert_close(loss, (student - teacher).square().sum() / 30)
    loss.backward()
    torch.testing.assert_close(student.grad, 2 * (student - teacher) / 30)
    assert teacher.grad is None


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_regressor_maps_widths_and_is_trained_with_the_student(kind):
    torch.manual_seed(0)
    if kind == "linear":
        thin, wide, regressor = torch.randn(40, 4), torch.randn(40, 4), nn.Linear(4, 9)
        wide = wide @ torch.randn(4, 9) + thin @ torch.randn(4, 9)
    else:
        thin, regressor = torch.randn(4, 3, 5, 5), nn.Conv2d(3, 8, 1)
        wide = nn.Conv2d(3, 8, 1)(thin)
    thin.requires_grad_()
    optimizer = torch.optim.Adam([*regressor.parameters(), thin], lr=0.03)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = hint_loss(thin, wide, regressor)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(3, 5), 2.0), r"\[3, 4\] and \[3, 5\]: expected twice"),
        ((torch.zeros(4), torch.zeros(4), 2.0), r"expected twice \(n, n_classes\)"),
        ((torch.zeros(3, 4), torch.zeros(3, 4), 0.0), r"temperature is 0.0: expected a positive"),
        ((torch.zeros(3, 4), torch.zeros(3, 4), float("nan")), r"temperature is nan"),
    ],
)
def test_wrong_arguments_of_soft_targets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_target_loss(*arguments)


def test_features_of_other_shapes_are_refused_and_a_regressor_asked_for():
    thin, wide = torch.zeros(3, 4), torch.zeros(3, 8)
    with pytest.raises(ValueError, match=r"\[3, 4\], expected.* \[3, 8\]: give a regressor"):
        hint_loss(thin, wide)
    with pytest.raises(
        ValueError, match=r"the regressor's output .*\[3, 9\], expected.* \[3, 8\]$"
    ):
        hint_loss(thin, wide, nn.Linear(4, 9))
    with pytest.raises(ValueError, match=r"\[1, 8\], expected"):  # would broadcast
        hint_loss(torch.zeros(1, 8), wide)
