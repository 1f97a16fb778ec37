"""What every loss must do; and each of them against a naive restatement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lissom.menu import menu

LOSSES = list(menu("losses"))


def answers(seed: int = 0, size: tuple[int, int] = (6, 5)) -> Tensor:
    return 3 * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_number_not_below_zero(name: str) -> None:
    for seed in range(5):
        found = menu("losses").make(name)(answers(seed), answers(seed + 10))
        assert found.shape == () and torch.isfinite(found) and found > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_that_answers_like_its_teacher_has_nothing_to_learn(name: str) -> None:
    student = answers().requires_grad_()
    found = menu("losses").make(name)(student, answers())
    found.backward()
    assert abs(float(found.detach())) < 1e-12 and student.grad is not None and student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    loss, teacher = menu("losses").make(name), answers(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), answers(2).requires_grad_())


def test_kd_is_a_mean_over_the_batch() -> None:
    loss, student, teacher = menu("losses").make("kd"), answers(1), answers(2)
    each = torch.stack([loss(student[k:k + 1], teacher[k:k + 1]) for k in range(len(student))])
    torch.testing.assert_close(loss(student, teacher), each.mean())


@pytest.mark.parametrize("name", LOSSES)
def test_large_answers_stay_finite(name: str) -> None:
    student = (1e4 * answers(1)).float().requires_grad_()
    found = menu("losses").make(name)(student, (1e4 * answers(2)).float())
    found.backward()
    assert torch.isfinite(found) and student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_descending_the_gradient_brings_student_to_teacher(name: str) -> None:
    loss, teacher, student = menu("losses").make(name), answers(1), answers(2)
    before = float(loss(student, teacher))
    for _ in range(50):
        student = student.detach().requires_grad_()
        loss(student, teacher).backward()
        student = student - 0.5 * student.grad  # type: ignore[operator]
    assert float(loss(student.detach(), teacher)) < 0.5 * before


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_kd_against_its_formula(t: float) -> None:
    def softened(x: np.ndarray) -> np.ndarray:
        e = np.exp(x / t - (x / t).max())
        return e / e.sum()
    student, teacher = answers(1).numpy(), answers(2).numpy()
    wanted = 0.0
    for s, z in zip(student, teacher, strict=True):
        p, q = softened(z), softened(s)
        wanted += t * t * sum(p[k] * np.log(p[k] / q[k]) for k in range(len(p))) / len(student)
    found = menu("losses").make(f"kd({t})")(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_kd_at_a_high_temperature_matches_centred_logits() -> None:
    """For T large the value tends to the squared distance of centred logits over twice the number of classes."""
    student, teacher = answers(1), answers(2)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    wanted = gap.square().sum(1).mean() / (2 * 5)
    torch.testing.assert_close(menu("losses").make("kd(100)")(student, teacher), wanted, rtol=0.1, atol=0)
