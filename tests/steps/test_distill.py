"""The distill step: sums of weighted losses, teachers, feature places, and a whole run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn

import lissom
from lissom import LissomError, Recipe
from lissom.data.data import Data
from lissom.data.split import Images
from lissom.distillation.balance import MEASURE_INTERVAL, Balance, gradient_norm
from lissom.distillation.comparison import Comparison
from lissom.distillation.ensemble import Ensemble
from lissom.language.context import Context, SurgeryContext
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.loss import cross_entropy
from lissom.learning.training_run import TrainingRun
from lissom.models import factory
from lissom.report.methods import method_rows
from lissom.running.context import TaskContext
from lissom.running.execute import Run
from lissom.steps.distill import Distill
from lissom.store.store import Store
from lissom.surgery.channels.network_groups import groups_of
from lissom.surgery.channels.slice import slice_channels
from lissom.tasks.task import Task
from lissom.tasks.teachers import teachers_in

CPU = torch.device("cpu")


def images(count: int = 48, classes: int = 3, size: int = 16) -> Data:
    """Return images whose class is how bright they are."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=draw)
    pixels = torch.randint(0, 60, (count, 3, size, size), generator=draw) + 60 * labels.view(
        -1, 1, 1, 1
    )
    split = Images(pixels.byte(), labels)
    names = tuple("abcdef"[:classes])
    return Data(
        "bright", split, split, split, names, 3, (size, size), (0.5,) * 3, (0.25,) * 3, True, "x"
    )


DATA = images()
BATCH = DATA.example(8)
LABELS = torch.arange(8) % 3


@pytest.fixture(scope="module", autouse=True)
def exact() -> Iterator[None]:
    """Compute in float32 on every processor: values are compared to more digits than bfloat16 has."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("learning.precision", "distillation.comparison"):
            patch.setattr(f"lissom.{module}.fast_precision", lambda _: torch.float32)
        yield


def resnet(name: str = "resnet8", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return factory(name)(3).eval()


def context(
    task: Task | None = None, teacher: nn.Module | None = None, where: str = "distill"
) -> Context:
    task = task or Task(lambda: resnet(), DATA, "net")
    return TaskContext(
        DATA.example(),
        lambda count: [DATA.example(count)],
        task=task,
        where=where,
        teacher=lambda spec: copy.deepcopy(teacher) if teacher is not None else task.fresh(1),
    )


def comparison(text: str, student: nn.Module, teacher: nn.Module, **more: Any) -> Comparison:
    return Comparison(Distill(text, 1).terms("here"), student, teacher, BATCH[:1], **more)


def values(compare: Comparison, student: nn.Module) -> list[Tensor]:
    with compare.watching():
        return compare.values(student(BATCH), LABELS)


# sums


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("kd", "kd"),
        ("kd()", "kd"),
        ("kd+gram", "kd + gram"),
        ("kd + .5*gram", "kd + 0.5*gram"),
        ("2*kd + kd", "2.0*kd + kd"),
        ("kd(temperature=2) + 3 * attention(2)", "kd(2.0) + 3.0*attention"),
        ("(kd + gram) + fmse", "kd + gram + fmse"),
        ("logit_std(loss='dkd') + 1e-05*fmse", 'logit_std("dkd") + 1e-05*fmse'),
    ],
)
def test_a_sum_is_written_in_its_shortest_form_and_reads_back(text: str, shortest: str) -> None:
    step = Distill(text, 3)
    assert step.loss == shortest
    assert Recipe(str(step)).steps == (step,)
    assert Recipe(str(step)).keys("root") == [step.key("root")]


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.none() | st.floats(1e-12, 1e12), st.sampled_from(list(menu("losses")))),
        min_size=1,
        max_size=6,
    )
)
def test_any_sum_reads_back(terms: list[tuple[float | None, str]]) -> None:
    step = Distill(
        " + ".join(name if number is None else f"{number!r}*{name}" for number, name in terms), 1
    )
    assert [(number, loss.name()) for number, loss in step.terms("here")] == terms
    assert Recipe(str(step)).steps == (step,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kdd + gram", "distill(loss=...): there is no loss 'kdd'; did you mean 'kd'?"),
        ("kd + gramm", "there is no loss 'gramm'; did you mean 'gram'?"),
        ("kd + gram(clp=1)", "gram: there is no setting 'clp'; did you mean 'clip'?"),
        ("kd + gram(clip=-1)", "gram(clip=...): expected a value >= 0, got -1"),
        (
            "kd - gram",
            "expected a sum of losses, each maybe with a number above 0 in front, as in kd + 0.5",
        ),
        ("kd*2", "got 'kd * 2'"),
        ("2/kd", "got '2 / kd'"),
        ("0*kd", "got '0 * kd'"),
        ("-1*kd", "got '-1 * kd'"),
        ("True*kd", ", got "),
        ("kd + 'x'*gram", ", got "),
        ("kd + 2*(gram + fmse)", "expected a loss"),
        ("kd +", "cannot be read at column"),
        ("kd + 1", "expected a loss"),
        ("", "there is no loss ''"),
        ("kd, gram", "expected a loss"),
        ("1e999*kd", ", got "),
        ("{kd, gram} + fmse", "expected a loss"),
        ("kd({1, 2}) + gram", "expected one loss"),
    ],
)
def test_a_sum_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError) as caught:
        Distill(text, 3)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        " + ".join(["kd"] * 3000),
        "2*" * 3000 + "kd",
        "(" * 3000 + "kd",
        "kd + " + "-" * 100_000 + "kd",
        "2*" * 400 + "kd",
        "logit_std(" * 1000 + "kd" + ")" * 1000,
    ],
    ids=["long", "factors", "brackets", "minus", "mixed", "calls"],
)
def test_a_sum_nested_however_deeply_is_read_or_refused(text: str) -> None:
    try:
        found: Any = Distill(text, 3).terms("here")
    except LissomError as error:
        found = str(error)
    where = ("distill(loss=...): ", "logit_std(loss=...): ")
    assert len(found) == 3000 if isinstance(found, list) else found.startswith(where)


def test_a_long_sum_is_read() -> None:
    assert len(Distill(" + ".join(["kd"] * 50), 3).terms("here")) == 50


def test_the_key_depends_on_every_loss_of_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["kd", "kd + gram", "gram + kd", "kd + 0.5*gram", "kd + 1.0*gram", "kd + gram(clip=1)"]
    steps = [Distill(text, 3) for text in texts] + [
        Distill("kd", 3, temperature=4.0),
        Distill("kd", 3, share=0.4),
        Distill("kd", 3, at="blocks.1"),
    ]
    keys = {step.key("root") for step in steps}
    assert len(keys) == len(steps)
    before = Distill("kd + logit_std(dkd)", 3).key("root")
    monkeypatch.setattr(menu("losses")["dkd"], "version", 99)
    assert Distill("kd + logit_std(dkd)", 3).key("root") != before


def test_the_list_says_that_losses_are_added() -> None:
    (row,) = method_rows("steps", "distill")
    bounds = {s["name"]: s["bounds"] for s in row["settings"]}
    assert bounds["loss"] == "a sum of " + " | ".join(menu("losses"))


def test_one_temperature_for_every_loss_that_has_one() -> None:
    found = Distill(
        "kd + gram + 0.5*logit_std(clipped) + dkd(temperature=9)", 3, temperature=3
    ).terms("here")
    assert [(number, str(loss)) for number, loss in found] == [
        (None, "kd(3.0)"),
        (None, "gram"),
        (0.5, 'logit_std("clipped(temperature=3.0)")'),
        (None, "dkd(temperature=3.0)"),
    ]
    with pytest.raises(
        LissomError, match=r"here: temperature=3 was given, but 'fmse \+ gram' has none"
    ):
        Distill("fmse + gram", 3, temperature=3).terms("here")


# weights


def norms(compare: Comparison, found: list[Tensor], student: nn.Module) -> list[float]:
    parameters = list(student.parameters())
    return [
        w.value * gradient_norm(v, parameters)
        for w, v in zip(compare.balance.weights, found, strict=True)
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_the_gradient_of_a_further_term_has_its_share_of_the_first(share: float) -> None:
    student = resnet(seed=1)
    compare = comparison("2*kd + gram + attention + 7*fmse + pkt", student, resnet(), share=share)
    with compare.watching():
        logits = student(BATCH)
        total = compare(logits, LABELS)
        found = compare.values(logits, LABELS)
    lengths = norms(compare, found, student)
    weights = [w.value for w in compare.balance.weights]
    assert (weights[0], weights[3]) == (2, 7)
    for k in (1, 2, 4):
        assert lengths[k] == pytest.approx(share * lengths[0], rel=1e-3)
    torch.testing.assert_close(total, sum(w * v for w, v in zip(weights, found, strict=True)))
    assert all(p.grad is None for p in student.parameters()), "measuring leaves no gradient behind"


def line(size: float, x: nn.Parameter) -> Tensor:
    """Return a term whose gradient has this length."""
    return size * x[0]


def test_weights_are_measured_anew_and_smoothed() -> None:
    x, balance = nn.Parameter(torch.ones(2)), Balance([None, None], 0.5)
    for batch in range(MEASURE_INTERVAL):
        assert float(
            balance([line(3, x), line(2 if batch == 0 else 50, x)], [x]).detach()
        ) == pytest.approx(3 + 0.75 * (2 if batch == 0 else 50))
    assert balance.measured == 1
    balance([line(1, x), line(6, x)], [x])
    assert balance.measured == 2
    assert balance.weights[1].value == pytest.approx(0.5 * 2 / 4)  # means of 3 and 1, of 2 and 6
    assert balance.weights[1].first == pytest.approx(0.75)


def test_where_there_is_no_gradient_yet_the_weight_is_looked_at_again() -> None:
    x, balance = nn.Parameter(torch.ones(2)), Balance([None, None, None], 0.5)
    for _ in range(6):
        balance([line(0, x), line(2, x), torch.tensor(1.0)], [x])
    # batches 0, 1, 2, 4
    assert [w.value for w in balance.weights] == [1, 0, 0] and balance.measured == 4
    for _ in range(4):
        balance([line(4, x), line(2, x), torch.tensor(1.0)], [x])
    assert balance.weights[1].value > 0 and balance.weights[2].value == 0


def test_a_term_with_a_number_is_left_out_of_the_measurement() -> None:
    x, balance, passes = nn.Parameter(torch.ones(2)), Balance([None, None, 0.5], 0.5), []
    terms = [x * 1 for _ in range(3)]
    for k, term in enumerate(terms):
        term.register_hook(lambda _, k=k: passes.append(k))
    balance([term.sum() for term in terms], [x])
    assert passes == [0, 1]


def test_a_sum_without_free_weights_is_never_measured() -> None:
    x = nn.Parameter(torch.ones(2))
    for numbers in ([None], [None, 0.5], [2.0, 0.5]):
        balance = Balance(numbers, 0.5)
        found = [line(k + 1.0, x) for k in range(len(numbers))]
        balance(found, [x])
        assert balance.measured == 0
        wanted = sum((1 if n is None else n) * (k + 1.0) for k, n in enumerate(numbers))
        assert float(balance(found, [x]).detach()) == pytest.approx(wanted)


# comparing


def test_the_teacher_is_as_in_inference_and_learns_nothing() -> None:
    student, teacher = resnet(seed=1).train(), resnet().train()
    before = copy.deepcopy(teacher.state_dict())
    compare = comparison("kd + gram", student, teacher)
    compare.to(CPU, torch.channels_last)
    with compare.watching():
        compare(student(BATCH), LABELS).backward()
    assert not teacher.training and all(
        torch.equal(v, before[k]) for k, v in teacher.state_dict().items()
    )
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_the_teacher_runs_in_inference_mode() -> None:
    modes = []
    teacher = Net(
        lambda s, x: (modes.append(torch.is_inference_mode_enabled()), s.head(s.one(x)))[1],
        one=conv(3, 4),
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    compare = comparison("kd", copy.deepcopy(teacher), teacher)
    found = compare.teacher_answer(BATCH)
    assert modes == [True] and not found.outputs.is_inference()


def test_the_teacher_runs_before_the_student_and_once() -> None:
    ran: list[str] = []
    student, teacher = resnet(seed=1), resnet()
    student.register_forward_hook(lambda *_: ran.append("student"))
    teacher.register_forward_hook(lambda *_: ran.append("teacher"))
    compare = comparison("kd + fmse", student, teacher)
    ran.clear()
    with compare.watching():
        compare(student(BATCH), LABELS).backward()
    assert ran == ["teacher", "student"]


def test_features_reach_the_loss_channel_by_channel() -> None:
    student, teacher = resnet(seed=1), resnet()
    (found,) = values(comparison("fmse", student, teacher, at="blocks.0,blocks.2"), student)
    with torch.no_grad():
        wanted = 0.0
        for last in (1, 3):
            ours, theirs = (
                net.blocks[:last](F.relu(net.bn(net.stem(BATCH)))) for net in (student, teacher)
            )
            wanted += (ours - theirs).square().mean()
    torch.testing.assert_close(found, wanted)


def test_a_cut_student_starts_with_nothing_to_learn_where_the_cut_changed_nothing() -> None:
    """Cutting channels whose batch-norm is zero leaves every other channel as it was."""
    teacher = resnet()
    with torch.no_grad():
        for m in teacher.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight[::2], m.bias[::2] = 0, 0
    student = copy.deepcopy(teacher)
    slice_channels(
        student, [(group, torch.arange(group.size) % 2 == 0) for group in groups_of(student, BATCH)]
    )
    assert student.head.in_features == 32
    compare = comparison("fmse + gram + attention + pkt", student, teacher)
    assert [place.how for place in compare.places] == ["kept channels"] * 3
    assert all(float(v.detach()) < 1e-7 for v in values(compare, student))
    index = compare.places[0].channels
    assert index is not None
    compare._kept_channels[0] = index.flip(0)
    assert float(values(compare, student)[0].detach()) > 1e-3


def test_hooks_are_gone_after_an_error() -> None:
    def broken(*_: Any) -> Tensor:
        raise ValueError("the user's loss")

    student, teacher = resnet(seed=1), resnet()
    kept: list[nn.Module] = []
    ctx = context(Task(lambda: resnet(), DATA, loss=broken))
    ctx.teacher = lambda spec: kept.append(teacher) or teacher
    with pytest.raises(ValueError, match="the user's loss"):
        Distill("kd + gram", 1, batch=16)(student, ctx)
    assert kept and not any(
        m._forward_hooks or m._forward_pre_hooks
        for net in (student, teacher)
        for m in net.modules()
    )


def test_another_architecture_is_compared_through_convolutions_that_learn_and_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher, made = resnet(), resnet("resnet14"), []
    names = list(student.state_dict())

    def seen(
        self: Context,
        model: nn.Module,
        settings: TrainSettings,
        loss: Any = None,
        terms: Any = (),
        extra: Any = (),
        stateful: Any = (),
    ) -> None:
        made.append((list(extra), copy.deepcopy(list(extra))))
        fit(TrainingRun(model, DATA, settings, seed=0, device=CPU, loss=loss, extra=extra))

    monkeypatch.setattr(TaskContext, "learn", seen)
    ctx = context(teacher=teacher)
    Distill("kd + fmse + mgd + attention", 1, batch=16)(student, ctx)
    ((after, before),) = made
    pairs = list(
        zip(nn.ModuleList(before).parameters(), nn.ModuleList(after).parameters(), strict=True)
    )
    assert len(pairs) == 3 + 3 * 4 and all(not torch.equal(a, b) for a, b in pairs)
    assert list(student.state_dict()) == names
    assert [(p["student"], p["teacher"], p["how"]) for p in ctx.facts["places"]] == [
        ("blocks.0", "blocks.1", "adapter"),
        ("blocks.1", "blocks.3", "adapter"),
        ("blocks", "blocks", "adapter"),
    ]


def test_losses_that_know_no_channels_need_no_adapter() -> None:
    compare = comparison("attention + pkt", resnet(), resnet("resnet14"))
    assert not list(compare.trained.parameters())
    assert [p["how"] for p in compare.facts()["places"]] == ["any width"] * 3


def test_losses_that_know_no_channels_never_see_an_adapter() -> None:
    student = resnet()
    compare = comparison("attention + fmse", student, resnet("resnet14"))
    before = values(compare, student)
    with torch.no_grad():
        for p in compare.trained.parameters():
            p.zero_()
    after = values(compare, student)
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


# the value


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_value_is_that_of_the_labels_and_of_the_teacher(alpha: float) -> None:
    asked: list[int] = []

    def labels(model: nn.Module, batch: Any) -> Tensor:
        asked.append(1)
        return cross_entropy()(model, batch)

    student, teacher = resnet(seed=1), resnet()
    before = copy.deepcopy(student).train()
    ctx = context(Task(lambda: resnet(), DATA, loss=labels), teacher)
    Distill("kd", 1, alpha=alpha, batch=48, augment="none", lr=1e-9)(student, ctx)
    assert isinstance(DATA.train, Images)
    pixels, truth = DATA.normalised(DATA.train.pixels), DATA.train.labels
    with torch.no_grad():
        ours, theirs = before(pixels), teacher(pixels)
    kd = method_of("losses", "kd")(ours, theirs, truth)
    wanted = (1 - alpha) * F.cross_entropy(ours, truth) + alpha * kd
    assert ctx.log[0]["loss"] == pytest.approx(float(wanted), rel=1e-4)
    assert bool(asked) == (alpha != 1)


def test_distilling_brings_the_student_to_its_teacher() -> None:
    student, teacher = resnet(seed=1), resnet(seed=2)
    fit(TrainingRun(teacher, DATA, TrainSettings(8, lr=0.05, batch=16), seed=0, device=CPU))
    ctx = context(teacher=teacher)
    Distill("fmse", 4, alpha=1, batch=16, lr=0.05)(student, ctx)
    assert ctx.log[-1]["loss"] < 0.5 * ctx.log[0]["loss"]
    ctx.log.clear()
    Distill("kd + gram", 6, batch=16, lr=0.05)(student, ctx)
    assert ctx.log[-1]["loss"] < 0.7 * ctx.log[0]["loss"]
    with torch.no_grad():
        assert (student(BATCH).argmax(1) == teacher(BATCH).argmax(1)).float().mean() > 0.7


def test_extra_modules_learn_and_are_limited_along_with_the_model() -> None:
    def run(clip: float | None) -> Tensor:
        torch.manual_seed(0)
        model, extra = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), nn.Linear(3, 3)
        before = torch.cat(
            [p.detach().flatten().clone() for m in (model, extra) for p in m.parameters()]
        )
        settings = TrainSettings(
            1, lr=1.0, batch=48, schedule="constant", momentum=0.0, decay=0.0, clip=clip
        )
        run = TrainingRun(
            model,
            DATA,
            settings,
            seed=0,
            device=CPU,
            loss=lambda m, b: extra(b.outputs).square().mean(),
            extra=[extra],
        )
        fit(run)
        moved = (
            torch.cat([p.detach().flatten() for m in (model, extra) for p in m.parameters()])
            - before
        )
        assert moved[-12:].abs().max() > 0
        return moved.norm()

    assert float(run(1e-3)) == pytest.approx(1e-3, rel=1e-3)
    assert float(run(None)) > 1e-2


# teachers


def test_an_ensemble_answers_with_the_mean_of_the_logits() -> None:
    one, two = resnet(), resnet("resnet14")
    both = Ensemble([one, two]).eval()
    with torch.no_grad():
        torch.testing.assert_close(both(BATCH), (one(BATCH) + two(BATCH)) / 2)
    compare = comparison("kd + fmse", resnet(seed=3), both)
    assert compare.first_teacher is one and [p.how for p in compare.places] == ["same"] * 3
    assert len(values(compare, compare.student)) == 2


def test_teachers_are_told_apart_by_commas(tmp_path: Path) -> None:
    odd = tmp_path / "a,b.pt"
    odd.write_bytes(b"")
    assert teachers_in("abc") == ["abc"] and teachers_in("abc , resnet8=x.pt") == [
        "abc",
        "resnet8=x.pt",
    ]
    assert teachers_in(str(odd)) == [str(odd)] and teachers_in(f"resnet8={odd}") == [
        f"resnet8={odd}"
    ]


def test_the_key_depends_on_the_content_of_every_weight_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    step = Distill("kd", 1, teacher=f"{one},resnet8={two}")
    found = [step.key("root")]
    two.write_bytes(b"3")
    found.append(step.key("root"))
    one.write_bytes(b"4")
    found.append(step.key("root"))
    assert len(set(found)) == 3


def test_the_key_depends_on_the_code_of_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("big.pt").write_bytes(b"1")
    for teacher in (f"{tmp_path / 'net.py'}:make=big.pt", "net:make=big.pt"):
        step = Distill("kd", 1, teacher=teacher)
        found = set()
        for code in ("make = 1", "make = 2"):
            Path("net.py").write_text(code)
            found.add(step.key("root"))
        assert len(found) == 2


# what is refused before the first epoch


class Wide(nn.Module):
    """A teacher of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = conv(3, 4), head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            Distill("kd", 1, teacher="x"),
            "here: the teacher answers with (5,) numbers, the student with (3,)",
        ),
        (Distill("fmse", 1, teacher="x"), "here: the teacher answers with (5,) numbers"),
        (Distill("kd + gram", 1, at="blcks.1"), "here: at: no module of the student"),
        (
            Distill("kd", 1, at="blocks.1"),
            "here: at='blocks.1' names places to compare, but 'kd' compares no features; fmse or",
        ),
        (Distill("fmse", 1, temperature=3), "here: temperature=3 was given, but 'fmse' has none"),
        (
            Distill("gram", 1, at="blocks.1"),
            "gram: expected at least two feature layers to pair, got one",
        ),
        (
            Distill("logit_std(gram)", 1),
            "logit_std(loss=...): expected a loss that compares logits, such as kd, got 'gram', which",
        ),
        (
            Distill("logit_std(gram)", 1, temperature=3),
            "logit_std(loss=...): expected a loss that compares logits",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    step: Distill, said: str
) -> None:
    ctx, student = context(where="here"), resnet()
    ctx.teacher = lambda spec: Wide()
    with pytest.raises(LissomError) as caught:
        step.rehearse(student, ctx)
    assert said in str(caught.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


def test_a_teacher_that_was_made_for_other_images_is_refused() -> None:
    ctx = context(teacher=factory("resnet8")(3, in_channels=1), where="here")
    with pytest.raises(
        LissomError,
        match=r"^here: the teacher raised RuntimeError on images of "
        r"\(3, 16, 16\): ",
    ):
        Distill("kd", 1, teacher="x").rehearse(resnet(), ctx)


def test_a_recipe_is_refused_before_its_first_step(tmp_path: Path) -> None:
    task = Task(lambda: resnet(), DATA, "net")
    with pytest.raises(LissomError, match=r"'blocks\.9'"):
        lissom.run(
            'train(1) | prune(0.5, multiple=4) | distill("gram", 1, at="blocks.9")', task, tmp_path
        )
    assert not list(Store(tmp_path))
    with pytest.raises(LissomError, match="there is no teacher"):
        Distill("kd", 1)(resnet(), SurgeryContext(BATCH[:1], lambda _: [BATCH]))


# the whole way


def test_two_stages_after_pruning_and_again_after_quantizing(tmp_path: Path) -> None:
    task = Task(lambda: resnet(), DATA, "net")
    recipe = (
        'train(2, batch=16) | prune(0.5, multiple=4) | distill("fmse", 1, alpha=1, batch=16) | '
        'distill("kd + gram + 0.25*mgd", 1, batch=16) | quantize(8, samples=16) | '
        'distill("kd + fmse", 1, batch=16)'
    )
    (record,) = lissom.run(recipe, task, tmp_path)
    store = Store(tmp_path)
    chain, key = [], record["key"]
    for _ in range(5):
        chain.append(store.record(key))
        key = chain[-1]["before"]
    last, quantized, second, first, pruned = chain
    assert json.loads(json.dumps(last["facts"])) == last["facts"]
    for found in (last, second, first):
        assert [p["how"] for p in found["facts"]["places"]] == ["kept channels"] * 3
        assert [p["student"] for p in found["facts"]["places"]] == [
            "blocks.0",
            "blocks.1",
            "blocks",
        ]
    assert [(t["loss"], t["measured"]) for t in second["facts"]["terms"]] == [
        ("kd", 0),
        ("gram", 1),
        ("mgd", 0),
    ]
    assert (
        second["facts"]["terms"][1]["weight"] > 0 and second["facts"]["terms"][2]["weight"] == 0.25
    )
    assert second["params"] == pruned["params"] and last["params"] == quantized["params"]


def test_several_teachers_by_key(tmp_path: Path) -> None:
    task = Task.of("resnet8", DATA)
    records = [lissom.run(f"train({k}, batch=16)", task, tmp_path)[0]["key"] for k in (1, 2)]
    (taught,) = lissom.run(
        'train(1, batch=16) | distill("kd", 1, batch=16)', task, tmp_path, teacher=",".join(records)
    )
    assert ",".join(records) in taught["recipe"]
    both = Run(task, Store(tmp_path))._teacher("")(",".join(records))
    one, two = (lissom.load(key, store=tmp_path) for key in records)
    with torch.no_grad():
        torch.testing.assert_close(both(BATCH), (one(BATCH) + two(BATCH)) / 2)
    with pytest.raises(LissomError, match="no key begins with 'gone'"):
        lissom.run('distill("kd", 1)', task, tmp_path, teacher=f"{records[0]},gone")


def test_a_student_of_digits_learns_from_the_network_it_was_cut_from(tmp_path: Path) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    recipe = 'train(1, batch=64) | prune(0.5, multiple=4) | distill("kd + gram", 1, batch=64)'
    (record,) = lissom.run(recipe, task, tmp_path)
    (again,) = lissom.run(recipe, task, tmp_path / "again")
    one, two = (
        Store(place).folder(record["key"]) / "model.safetensors"
        for place in (tmp_path, tmp_path / "again")
    )
    assert one.read_bytes() == two.read_bytes() and again["facts"] == record["facts"]
    assert [t["loss"] for t in record["facts"]["terms"]] == ["kd", "gram"]


# labels that are no class of an answer


def rows_of_labels(labels: Tensor, loss: str = "dkd") -> Tensor:
    """Return the value of a loss for a segmenter of three classes on eight images of 16 x 16."""
    torch.manual_seed(0)
    student, teacher = conv(3, 3).eval(), conv(3, 3).eval()
    compare = comparison(loss, student, teacher)
    with compare.watching():
        (value,) = compare.values(student(BATCH), labels)
    value.backward()
    return value.detach()


@pytest.mark.parametrize("loss", ["dkd", "logit_std(dkd)"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_rows_without_a_class_are_left_out(loss: str, kind: torch.dtype) -> None:
    labels = torch.randint(0, 3, (8, 16, 16), generator=torch.Generator().manual_seed(0))
    kept = rows_of_labels(labels, loss)
    ignored = labels.clone()
    ignored[:, ::2] = 255 if kind == torch.uint8 else -100
    found = rows_of_labels(ignored.to(kind), loss)
    torch.manual_seed(0)
    student, teacher = (conv(3, 3)(BATCH)[:, :, 1::2].movedim(1, -1).flatten(0, 2) for _ in "st")
    wanted = method_of("losses", loss)(student, teacher, labels[:, 1::2].flatten())
    torch.testing.assert_close(found, wanted.detach())
    assert found != kept
    assert rows_of_labels(torch.full((8, 16, 16), 255), loss) == 0


def test_labels_that_are_not_whole_numbers_are_refused() -> None:
    said = r"^distill: dkd needs the class of each answer, a whole number, got 0.5; kd needs none$"
    with pytest.raises(LissomError, match=said):
        rows_of_labels(torch.full((8, 16, 16), 0.5))
    with pytest.raises(LissomError, match="a whole number, got nan"):
        rows_of_labels(torch.full((8, 16, 16), torch.nan))


def test_answers_of_one_number_have_no_class() -> None:
    one = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    compare = comparison("dkd", one, copy.deepcopy(one))
    with pytest.raises(LissomError, match="dkd needs the class of each answer"):
        values(compare, one)


def test_several_labels_are_compared_one_by_one() -> None:
    from lissom.kinds.multilabel import Multilabel

    torch.manual_seed(0)
    student, teacher = resnet(seed=1), resnet()
    compare = comparison("dkd(beta=0)", student, teacher, logits=Multilabel().compared)
    labels = (torch.rand(8, 3) > 0.5).float()
    with compare.watching(), torch.no_grad():
        ours = student(BATCH)
        (found,) = compare.values(ours, labels)
        p, q = (x.div(4).sigmoid() for x in (teacher(BATCH), ours))
    wanted = 16 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(found, wanted)


def test_a_wrapped_loss_needs_the_labels_of_its_inner_one() -> None:
    assert method_of("losses", "logit_std(dkd)").needs_labels
    assert not method_of("losses", "logit_std(kd)").needs_labels
    step = Distill("kd + logit_std(dkd)", 1, augment="mixup")
    with pytest.raises(LissomError, match="needs the class of each sample, which mixup blends"):
        step.rehearse(resnet(), context(where="here"))
    compare = comparison("logit_std(dkd)", resnet(), resnet(seed=1))
    with compare.watching(), pytest.raises(LissomError, match="needs the class of each answer"):
        compare.values(compare.student(BATCH), {"boxes": torch.zeros(8, 4)})


# more on teachers


class Picks(nn.Module):
    """A network with outputs of integers, named `rows` or as a test says."""

    def __init__(self, name: str, value: int) -> None:
        super().__init__()
        self.name, self.value, self.one = name, value, resnet(seed=value)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows = torch.full((len(x), 3), self.value)
        return {"logits": self.one(x), self.name: rows, "there": rows > 1}


def test_integers_of_an_ensemble_are_those_of_its_first_member() -> None:
    both = Ensemble([Picks("rows", 1), Picks("rows", 2)]).eval()
    with torch.no_grad():
        found = both(BATCH)
        logits = [member.one(BATCH) for member in both.members]
    assert (found["rows"] == 1).all() and not found["there"].any()
    torch.testing.assert_close(found["logits"], (logits[0] + logits[1]) / 2)


def test_members_that_pick_rows_are_refused_before_anything_is_trained() -> None:
    ctx = context(where="here")
    ctx.teacher = lambda _: Ensemble([Picks("row_ids", 1), Picks("row_ids", 2)])
    with pytest.raises(LissomError, match=r"^here: .*one teacher.*row_ids") as caught:
        Distill("kd", 1, teacher="x,y").rehearse(resnet(), ctx)
    assert "\n" not in str(caught.value) and "raised" not in str(caught.value)


def test_the_teacher_does_not_run_while_the_student_is_measured() -> None:
    ran: list[int] = []
    teacher = resnet()
    teacher.register_forward_hook(lambda _, inputs, __: ran.append(len(inputs[0])))
    ctx = context()
    ctx.teacher = lambda _: teacher
    step = Distill("kd", 2, batch=16, until="plateau", patience=2, lr=0.01)
    step(resnet(seed=1), ctx)
    assert ran == [16] * 6 and len(ctx.log) == 2


# parts of a batch


def test_measurements_count_updates_and_not_parts_of_a_batch() -> None:
    x, balance = nn.Parameter(torch.ones(2)), Balance([None, None], 0.5)
    for _ in range(MEASURE_INTERVAL):
        for share in (0.4, 0.3, 0.3):
            balance([line(3, x), line(2, x)], [x], share)
    assert balance.measured == 1 and balance.batches == MEASURE_INTERVAL
    again = Balance([None, None], 0.5)
    again.recall(json.loads(json.dumps(balance.memory())))
    again([line(3, x), line(2, x)], [x], 0.5)
    assert again.measured == 2
    again([line(3, x), line(2, x)], [x], 0.5)
    assert again.measured == 2


def test_the_record_counts_measurements_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.distillation.balance.MEASURE_INTERVAL", 4)
    measured = []
    for parts in (1, 4):
        ctx = context()
        Distill("kd + fmse", 2, batch=8, accumulate=parts, lr=0.01)(resnet(seed=1), ctx)
        measured.append(ctx.facts["terms"][1]["measured"])
    assert measured == [3, 3]  # of 12 batches
