"""The contract of losses, and each of them against a naive implementation and its own laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom import LissomError
from lissom.language.loss import FeatureLoss, LogitLoss
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.losses.gram import flow
from lissom.losses.logit_std import standardized

LOSSES = list(menu("losses"))
# these two say that they are not
ZERO_AT_THE_TEACHER = [name for name in LOSSES if name not in ("clipped", "mgd")]
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
SHAPES = ((6, 4, 4, 4), (6, 5, 2, 2), (6, 3, 2, 2))
each = pytest.mark.parametrize("name", LOSSES)
fuzz = settings(max_examples=40, deadline=None, database=None)


def drawn(shape: tuple[int, ...] = (6, 5), seed: int = 0) -> Tensor:
    return 3 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def inputs(name: str, seed: int) -> list[Tensor]:
    """Return logits, or features of three places."""
    logits = menu("losses")[name].reads == "logits"
    return (
        [drawn(seed=seed)] if logits else [drawn(shape, seed + k) for k, shape in enumerate(SHAPES)]
    )


def value_of(
    text: str, dtype: torch.dtype = torch.float64
) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """Return a loss as a function of what `inputs` returns, drawing the same numbers at every call."""
    loss: Any = method_of("losses", text)
    torch.manual_seed(0)
    modules = (
        loss.modules([s[1] for s in SHAPES]).to(dtype) if isinstance(loss, FeatureLoss) else []
    )

    def value(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        torch.manual_seed(1)
        if isinstance(loss, LogitLoss):
            return loss(*student, *teacher, LABELS)
        return loss(student, teacher, *([modules] if len(modules) else []))

    return value


@each
def test_a_loss_says_what_it_reads(name: str) -> None:
    kind = menu("losses")[name]
    assert {"logits": LogitLoss, "features": FeatureLoss}[kind.reads] in kind.__mro__


@each
def test_a_loss_is_one_number_above_zero(name: str) -> None:
    value = value_of(name)
    for seed in range(5):
        found = value(inputs(name, seed), inputs(name, seed + 10))
        assert found.shape == () and torch.isfinite(found) and found > 0


@pytest.mark.parametrize("name", ZERO_AT_THE_TEACHER)
def test_a_student_that_is_like_its_teacher_has_nothing_to_learn(name: str) -> None:
    student = [x.requires_grad_() for x in inputs(name, 0)]
    found = value_of(name)(student, inputs(name, 0))
    found.backward()
    assert abs(float(found.detach())) < 1e-12
    for x in student:
        assert x.grad is not None and x.grad.abs().max() < 1e-8


@each
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    value, teacher = value_of(name), inputs(name, 10)
    assert torch.autograd.gradcheck(
        lambda *s: value(list(s), teacher), [x.requires_grad_() for x in inputs(name, 20)]
    )


@each
@pytest.mark.parametrize("size", [1e4, 1e-6, 0.0])
def test_large_and_vanishing_inputs_keep_value_and_gradient_finite(name: str, size: float) -> None:
    student = [(size * x).float().requires_grad_() for x in inputs(name, 10)]
    found = value_of(name, torch.float32)(student, [(size * x).float() for x in inputs(name, 20)])
    found.backward()
    assert torch.isfinite(found)
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in student)


@each
def test_descending_the_gradient_brings_the_student_nearer(name: str) -> None:
    value, teacher, student = (
        value_of(name),
        inputs(name, 10),
        [x.requires_grad_() for x in inputs(name, 20)],
    )
    before, optimizer = float(value(student, teacher).detach()), torch.optim.Adam(student, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        value(student, teacher).backward()
        optimizer.step()
    # mgd sees half of it
    assert float(value(student, teacher).detach()) < (0.5 if name != "mgd" else 0.9) * before


@pytest.mark.parametrize("name", ["kd", "dkd", "clipped", "logit_std", "fmse", "gram", "attention"])
def test_a_loss_is_a_mean_over_the_batch(name: str) -> None:
    loss: Any = method_of("losses", name)
    student, teacher = inputs(name, 10), inputs(name, 20)

    def part(k: int) -> Tensor:
        one, two = [x[k : k + 1] for x in student], [x[k : k + 1] for x in teacher]
        return (
            loss(*one, *two, LABELS[k : k + 1]) if isinstance(loss, LogitLoss) else loss(one, two)
        )

    torch.testing.assert_close(
        value_of(name)(student, teacher), torch.stack([part(k) for k in range(6)]).mean()
    )


# logits


def soft(x: np.ndarray, t: float = 1.0) -> np.ndarray:
    e = np.exp(x / t - (x / t).max())
    return e / e.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def naive_kd(student: np.ndarray, teacher: np.ndarray, t: float) -> float:
    return (
        t
        * t
        * float(
            np.mean([kl(soft(z, t), soft(s, t)) for s, z in zip(student, teacher, strict=True)])
        )
    )


def naive_dkd(
    student: np.ndarray, teacher: np.ndarray, t: float, alpha: float, beta: float
) -> float:
    total = 0.0
    for s, z, y in zip(student, teacher, LABELS.tolist(), strict=True):
        p, q = soft(z, t), soft(s, t)
        rest_p, rest_q = np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])
        total += alpha * kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]])) + beta * kl(
            rest_p, rest_q
        )
    return t * t * total / len(student)


def naive_dist(
    student: np.ndarray, teacher: np.ndarray, t: float, beta: float, gamma: float
) -> float:
    q, p = np.array([soft(s, t) for s in student]), np.array([soft(z, t) for z in teacher])
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return t * t * float(beta * inter + gamma * intra)


def z_score(x: np.ndarray) -> np.ndarray:
    return np.array([(row - row.mean()) / row.std() for row in x])


def naive_clipped(student: np.ndarray, teacher: np.ndarray, t: float, clip: float) -> float:
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        total += sum(
            max(0.0, -a * math.log(b + 1e-6) - clip)
            for a, b in zip(soft(z, t), soft(s), strict=True)
        )
    return total / len(student)


@pytest.mark.parametrize(
    ("text", "naive"),
    [
        ("kd", lambda s, z: naive_kd(s, z, 4)),
        ("kd(1)", lambda s, z: naive_kd(s, z, 1)),
        ("kd(20)", lambda s, z: naive_kd(s, z, 20)),
        ("dkd", lambda s, z: naive_dkd(s, z, 4, 1, 8)),
        ("dkd(0.5, 2, 3)", lambda s, z: naive_dkd(s, z, 3, 0.5, 2)),
        ("dist", lambda s, z: naive_dist(s, z, 1, 1, 1)),
        ("dist(2, 3, 4)", lambda s, z: naive_dist(s, z, 4, 2, 3)),
        ("logit_std", lambda s, z: naive_kd(z_score(s), z_score(z), 4)),
        (
            "logit_std('dkd(temperature=2)')",
            lambda s, z: naive_dkd(z_score(s), z_score(z), 2, 1, 8),
        ),
        ("clipped", lambda s, z: naive_clipped(s, z, 2, 0.1)),
        ("clipped(0.01, 3)", lambda s, z: naive_clipped(s, z, 3, 0.01)),
    ],
)
def test_a_loss_of_logits_against_its_formula(
    text: str, naive: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    student, teacher = drawn(seed=1), drawn(seed=2)
    found = value_of(text)([student], [teacher])
    assert float(found) == pytest.approx(naive(student.numpy(), teacher.numpy()), rel=1e-9)


def test_kd_at_a_high_temperature_matches_centred_logits() -> None:
    """For T large the value tends to the squared distance of centred logits over twice the number
    of classes.
    """
    student, teacher = drawn(seed=1), drawn(seed=2)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    wanted = gap.square().sum(1).mean() / (2 * 5)
    torch.testing.assert_close(value_of("kd(100)")([student], [teacher]), wanted, rtol=0.1, atol=0)


@fuzz
@given(st.integers(0, 10**6), st.sampled_from([1.0, 2.0, 4.0]))
def test_kd_is_the_right_class_and_the_others_weighed_by_how_unsure_the_teacher_is(
    seed: int, t: float
) -> None:
    """KD = TCKD + (1 - p_y) NCKD, image by image."""
    for k in range(3):
        student, teacher, y = drawn((1, 7), seed), drawn((1, 7), seed + 1), torch.tensor([k])
        p = float((teacher / t).softmax(1)[0, k])
        dkd = method_of("losses", f"dkd(1, {1 - p}, {t})")(student, teacher, y)
        torch.testing.assert_close(dkd, method_of("losses", f"kd({t})")(student, teacher, y))


@fuzz
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_dist_sees_no_difference_in_scale_and_shift_of_probabilities(
    seed: int, scale: float
) -> None:
    wanted = drawn(seed=seed).softmax(1)
    less_sure = scale * wanted + (1 - scale) / 5  # still adds up to 1
    assert float(value_of("dist")([less_sure.log()], [wanted.log()])) == pytest.approx(0, abs=1e-9)


@fuzz
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-50, 50))
def test_logit_std_sees_no_difference_in_scale_and_shift_of_logits(
    seed: int, scale: float, shift: float
) -> None:
    student, teacher = drawn(seed=seed), drawn(seed=seed + 1)
    value = value_of("logit_std")
    torch.testing.assert_close(
        value([scale * student + shift], [teacher]), value([student], [teacher])
    )
    torch.testing.assert_close(
        value([student], [scale * teacher - shift]), value([student], [teacher])
    )
    assert float(value([scale * teacher + shift], [teacher])) == pytest.approx(0, abs=1e-9)


def test_standard_logits_have_mean_0_and_spread_1() -> None:
    found = standardized(torch.cat([7 * drawn() + 3, torch.full((1, 5), 2.0, dtype=torch.float64)]))
    torch.testing.assert_close(found.mean(1), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(
        found.std(1, correction=0), torch.tensor([1.0] * 6 + [0.0], dtype=torch.float64)
    )


def test_logit_std_takes_losses_of_logits_alone() -> None:
    with pytest.raises(
        LissomError,
        match=r"logit_std\(loss=\.\.\.\): expected a loss .* got 'gram', which "
        r"compares features",
    ):
        value_of("logit_std(gram)")([drawn()], [drawn()])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kd", "kd(2.0)"),
        ("dkd(beta=2)", "dkd(beta=2.0, temperature=2.0)"),
        ("dist", "dist(temperature=2.0)"),
        ("clipped(temperature=3)", "clipped"),
        ("logit_std", 'logit_std("kd(2.0)")'),
        ("logit_std(dkd)", 'logit_std("dkd(temperature=2.0)")'),
        ("gram", None),
        ("mgd", None),
    ],
)
def test_a_loss_is_made_again_at_another_temperature(before: str, after: str | None) -> None:
    found = method_of("losses", before).at_temperature(2.0)  # type: ignore[attr-defined]
    assert (found and str(found)) == after


# features


def naive_fsp(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return sum over positions of outer products over h*w, the larger brought down by the maximum
    of each window.
    """
    while one.shape[1] > two.shape[1]:
        one = one.reshape(len(one), one.shape[1] // 2, 2, one.shape[2] // 2, 2).max((2, 4))
    total = np.zeros((len(one), len(two)))
    for y in range(one.shape[1]):
        for x in range(one.shape[2]):
            total += np.outer(one[:, y, x], two[:, y, x])
    return total / (one.shape[1] * one.shape[2])


def naive_gram(
    student: list[np.ndarray], teacher: list[np.ndarray], pairs: list[tuple[int, int]], clip: float
) -> float:
    total = 0.0
    for a, b in pairs:
        gaps = [
            naive_fsp(student[a][n], student[b][n]) - naive_fsp(teacher[a][n], teacher[b][n])
            for n in range(6)
        ]
        total += np.mean([np.maximum(0, gap**2 - clip) for gap in gaps])
    return total


def naive_attention(student: list[np.ndarray], teacher: list[np.ndarray], power: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for n in range(6):
            maps = [(np.abs(f[n]) ** power).sum(0) for f in (s, t)]
            q, p = (m / math.sqrt((m**2).sum()) for m in maps)
            total += ((q - p) ** 2).sum() / 6
    return total


def naive_pkt(student: list[np.ndarray], teacher: list[np.ndarray]) -> float:
    def near(f: np.ndarray, i: int) -> np.ndarray:
        x = f.mean((2, 3))
        row = np.array(
            [
                (x[i] @ x[j] / math.sqrt((x[i] @ x[i]) * (x[j] @ x[j])) + 1) / 2
                for j in range(len(x))
            ]
        )
        return row / row.sum()

    return sum(
        np.mean([kl(near(t, i), near(s, i)) for i in range(6)])
        for s, t in zip(student, teacher, strict=True)
    )


def naive_cwd(student: list[Any], teacher: list[Any], temperature: float) -> float:
    """Return the sum over places of KL(p || q), p and q distributions over the pixels of a channel."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        terms = []
        for n in range(s.shape[0]):
            for c in range(s.shape[1]):
                p, q = (np.exp(x[n, c].ravel() / temperature) for x in (t, s))
                p, q = p / p.sum(), q / q.sum()
                terms.append(float((p * np.log(p / q)).sum()))
        total += temperature**2 * float(np.mean(terms))
    return total


NEXT, STAGE = [(0, 1), (1, 2)], [(0, 0), (1, 2)]


@pytest.mark.parametrize(
    ("text", "naive"),
    [
        ("fmse", lambda s, t: sum(((a - b) ** 2).mean() for a, b in zip(s, t, strict=True))),
        (
            "fmse(clip=0.1)",
            lambda s, t: sum(
                np.maximum(0, (a - b) ** 2 - 0.1).mean() for a, b in zip(s, t, strict=True)
            ),
        ),
        ("gram", lambda s, t: naive_gram(s, t, NEXT, 0)),
        ("gram(clip=1, scale=0.1, pairs=stage)", lambda s, t: 0.1 * naive_gram(s, t, STAGE, 1)),
        ("attention", lambda s, t: naive_attention(s, t, 2)),
        ("attention(3)", lambda s, t: naive_attention(s, t, 3)),
        ("pkt", naive_pkt),
        ("cwd", lambda s, t: naive_cwd(s, t, 4)),
        ("cwd(temperature=1)", lambda s, t: naive_cwd(s, t, 1)),
    ],
)
def test_a_loss_of_features_against_its_formula(
    text: str, naive: Callable[[Any, Any], float]
) -> None:
    student, teacher = inputs("fmse", 10), inputs("fmse", 20)
    wanted = naive([x.numpy() for x in student], [x.numpy() for x in teacher])
    assert float(value_of(text)(student, teacher)) == pytest.approx(wanted, rel=1e-6)


def test_gram_of_one_place_needs_to_be_told_so() -> None:
    one = [drawn(SHAPES[0])]
    with pytest.raises(
        LissomError,
        match=r'gram: expected at least two feature layers to pair, got one; pairs="stage"',
    ):
        method_of("losses", "gram")(one, one)
    assert float(method_of("losses", 'gram(pairs="stage")')(one, one)) == 0


def test_a_gram_matrix_does_not_know_where_things_are() -> None:
    one, two = drawn((2, 3, 4, 4), 1), drawn((2, 5, 4, 4), 2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    moved = [f.flatten(2)[:, :, order].reshape(f.shape) for f in (one, two)]
    torch.testing.assert_close(flow(*moved), flow(one, two))


@pytest.mark.parametrize("name", ["attention", "pkt"])
def test_what_may_differ_in_width_does_not_know_channels(name: str) -> None:
    """Both see channels mixed by a rotation, more channels, and all of them larger, as the same."""
    assert menu("losses")[name].any_width  # type: ignore[attr-defined]
    f = drawn(SHAPES[0])
    turn = torch.linalg.qr(drawn((9, 9), 3))[0][:, :4]
    turned = torch.einsum("oc,nchw->nohw", turn, f)
    assert float(value_of(name)([5 * turned], [f])) == pytest.approx(0, abs=1e-12)
    assert float(value_of(name)([turned.flip(0)], [f])) > 1e-3


def test_mgd_makes_the_teachers_features_from_what_is_left() -> None:
    student, teacher = (
        [x.float() for x in inputs("mgd", 10)],
        [x.float() for x in inputs("mgd", 20)],
    )
    loss: Any = method_of("losses", "mgd(hidden=0.25)")
    torch.manual_seed(0)
    modules, masks, wanted = loss.modules([4, 5, 3]), [], 0.0
    torch.manual_seed(1)
    for s, t, make in zip(student, teacher, modules, strict=True):
        masks.append((torch.rand(6, 1, *s.shape[2:]) >= 0.25).float())
        first, _, last = make
        inner = torch.conv2d(masks[-1] * s, first.weight, first.bias, padding=1).clamp_min(0)
        wanted += (torch.conv2d(inner, last.weight, last.bias, padding=1) - t).square().mean()
    torch.manual_seed(1)
    torch.testing.assert_close(loss(student, teacher, modules), wanted)
    assert 0.6 < float(masks[0].mean()) < 0.9


def test_mgd_needs_its_modules() -> None:
    features = inputs("mgd", 0)
    with pytest.raises(LissomError, match=r"mgd\.modules\(widths\)"):
        method_of("losses", "mgd")(features, features)
