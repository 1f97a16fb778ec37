"""The outcomes of a search, kept as an Optuna study in the store or in a database."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import LissomError, first_line
from ...language.search_space import Choice, SearchSpace
from .goal import Goal
from .outcome import Outcome, Point

SAMPLERS = ("model", "random", "tpe", "nsga2")
# attributes of trials and studies
OUTCOME = "outcome"
REFERENCE = "reference"  # the outcome of the uncompressed network
TAKEN = "taken"  # whether the outcome was known before, from this study or another


def optuna() -> Any:
    """Return the Optuna module with its logging off. Raises LissomError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise LissomError("search: Optuna is not installed: pip install 'lissom[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Storage:
    """A file or database that holds studies. Those whose names begin with `name` share the space,
    task and machine, and differ in the want.
    """

    def __init__(self, place: str, name: str) -> None:
        self.optuna = optuna()
        self.place = place
        self.name = name
        with self.opening():
            self.storage = self._opened()
            self.names = sorted(
                study
                for study in self.optuna.get_all_study_names(self.storage)
                if study.startswith(name)
            )

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Turn any error in the block into a LissomError that the storage cannot be opened."""
        try:
            yield
        except Exception as error:  # each database driver raises its own
            reason = first_line(error)
            place = re.sub(r"//[^/@]*@", "//...@", self.place)  # hide the password
            raise LissomError(f"--storage: {place} cannot be opened: {reason:.200}") from error

    def _opened(self) -> Any:
        if "://" in self.place:
            from optuna.storages import RDBStorage
            from sqlalchemy.pool import NullPool

            # so that no connection stays open after a search
            return RDBStorage(self.place, engine_kwargs={"poolclass": NullPool})
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        Path(self.place).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(self.place, JournalFileOpenLock(self.place)))

    def studies(self) -> Iterator[Any]:
        """Yield the Optuna studies."""
        for name in self.names:
            yield self.optuna.load_study(study_name=name, storage=self.storage)

    def reference(self) -> Outcome | None:
        """Return the uncompressed network's outcome from the first search, if any. All latencies
        are scaled by it.
        """
        known = [study.user_attrs for study in self.studies()]
        return next((Outcome.of(each[REFERENCE]) for each in known if REFERENCE in each), None)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all searches, each recipe once."""
        return each_once(chain.from_iterable(map(outcomes_in, self.studies())))


def outcomes_in(study: Any) -> list[Outcome]:
    """Return the outcomes of an Optuna study, the oldest first, each recipe once."""
    found = [
        Outcome.of(trial.user_attrs[OUTCOME])
        for trial in study.trials
        if OUTCOME in trial.user_attrs
    ]
    return each_once(found)


def each_once(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the first outcome of each recipe; probe, stopped and whole recipe count separately."""
    first = dict[tuple[str, bool, bool], Outcome]()
    for each in outcomes:
        first.setdefault(what(each), each)
    return list(first.values())


def what(outcome: Outcome) -> tuple[str, bool, bool]:
    """Return what was run: the recipe, and whether as a probe or stopped early."""
    return outcome.recipe, outcome.probe, outcome.stopped


class Study:
    """The outcomes of one search, including those of other searches in the same storage."""

    def __init__(
        self,
        space: SearchSpace,
        goal: Goal,
        storage: Storage,
        want: str,
        reference: Outcome,
        by: str,
        seed: int,
    ) -> None:
        self.optuna = storage.optuna
        self.space = space
        self.goal = goal
        self.name = f"{storage.name}-{study_name(want)}"
        with storage.opening():
            self.study = self.optuna.create_study(
                storage=storage.storage,
                study_name=self.name,
                directions=["maximize" if sign > 0 else "minimize" for _, sign in goal.aims],
                load_if_exists=True,
            )
        if REFERENCE not in self.study.user_attrs:
            self.study.set_user_attr(REFERENCE, reference.json())
        # a continued search needs new random numbers
        self.study.sampler = self._sampler(by, seed + len(self.study.trials))
        own = {what(each) for each in self.outcomes()}
        for outcome in storage.outcomes():
            # what is of no use for one want may be for another
            known = all(name in outcome.values for name in goal.names())
            if known and what(outcome) not in own and not outcome.stopped:
                self.add(outcome, taken=True)

    def _sampler(self, by: str, seed: int) -> Any:
        samplers = self.optuna.samplers
        if by == "tpe":
            return samplers.TPESampler(seed=seed)
        if by == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=10)
        return samplers.RandomSampler(seed=seed)

    def outcomes(self) -> list[Outcome]:
        """Return all outcomes, the oldest first."""
        return outcomes_in(self.study)

    def trained(self) -> int:
        """Return the number of recipes that were trained for this want, or begun and stopped."""
        return sum(
            OUTCOME in trial.user_attrs
            and TAKEN not in trial.user_attrs
            and not trial.user_attrs[OUTCOME]["probe"]
            for trial in self.study.trials
        )

    def ask(self) -> tuple[Any, Point]:
        """Return a trial and the point that the sampler proposes. Raises LissomError if its steps
        cannot be combined.
        """
        trial = self.study.ask()
        point: Point = {}

        def choose(choice: Choice) -> float:
            point[choice.name] = self._suggested(trial, choice)
            return point[choice.name]

        try:
            self.space.recipe(choose)
        except LissomError:
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            raise
        return trial, point

    def _suggested(self, trial: Any, choice: Choice) -> float:
        if choice.options:
            return choice.options.index(trial.suggest_categorical(choice.name, choice.options))
        if choice.whole:
            step = int(choice.step or 1)
            low, high = int(choice.low), int(choice.high)
            return int(trial.suggest_int(choice.name, low, high, step=step, log=choice.log))
        value = trial.suggest_float(
            choice.name,
            choice.low,
            choice.high,
            step=None if choice.log else choice.step,
            log=choice.log,
        )
        return choice.number(value)

    def add(self, outcome: Outcome, trial: Any = None, taken: bool = False) -> None:
        """Add an outcome: of a `trial` from `ask`, or of a point from elsewhere if None. `taken`:
        the outcome was known before.
        """
        values = [outcome.values[name] for name, _ in self.goal.aims]
        constraints = {
            bound.name: bound.excess(outcome.values[bound.name]) for bound in self.goal.bounds
        }
        state = None if outcome.finished else self.optuna.trial.TrialState.PRUNED
        attributes = {OUTCOME: outcome.json()} | ({TAKEN: True} if taken else {})
        if trial is not None:
            for name, value in attributes.items():
                trial.set_user_attr(name, value)
            for name, excess in constraints.items():
                trial.set_constraint(name, excess)
            self.study.tell(trial, values if outcome.finished else None, state=state)
            return
        asked = {choice.name: choice for choice in self.space.choices}
        params = {
            name: asked[name].options[int(value)] if asked[name].options else value
            for name, value in outcome.point.items()
        }
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params=params,
                distributions={name: self._distribution(asked[name]) for name in params},
                values=values if outcome.finished else None,
                state=state or self.optuna.trial.TrialState.COMPLETE,
                user_attrs=attributes,
                constraints=constraints,
            )
        )

    def fail(self, trial: Any) -> None:
        """Mark a trial as failed."""
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def _distribution(self, choice: Choice) -> Any:
        distributions = self.optuna.distributions
        if choice.options:
            return distributions.CategoricalDistribution(choice.options)
        if choice.whole:
            return distributions.IntDistribution(
                int(choice.low), int(choice.high), log=choice.log, step=int(choice.step or 1)
            )
        return distributions.FloatDistribution(choice.low, choice.high, log=choice.log)

    def importances(self, name: str) -> dict[str, float]:
        """Return the share of a value's variance that each choice explains (fANOVA), by its label;
        {} if there are too few outcomes.

        A choice inside an option exists only if that option was taken. So only the largest group of
        recipes with the same choices is used.
        Source: Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance
        """
        done = {
            trial.user_attrs[OUTCOME]["recipe"]: trial
            for trial in self.study.trials
            if trial.values and OUTCOME in trial.user_attrs
        }
        if not done:
            return {}
        (choices, _), *_ = Counter(frozenset(trial.params) for trial in done.values()).most_common()
        alike = self.optuna.create_study(directions=self.study.directions)
        alike.add_trials([trial for trial in done.values() if trial.params.keys() == choices])
        try:
            found = self.optuna.importance.get_param_importances(
                alike,
                evaluator=self.optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial: trial.user_attrs[OUTCOME]["values"][name],
            )
        except (ValueError, RuntimeError, KeyError):
            return {}
        labels = {choice.name: choice.label for choice in self.space.choices}
        counts = Counter(labels[name] for name in found)
        return {
            labels[name] if counts[labels[name]] == 1 else name: round(float(share), 4)
            for name, share in found.items()
        }


def study_name(*parts: object) -> str:
    """Return a name that is a hash of the parts of a search."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
