"""Where the outcomes of a search are kept: an Optuna study, in the store or in a database."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...errors import LissomError, unknown
from ...language.search_space import Choice, SearchSpace
from .goal import Goal
from .outcome import Outcome, Point

SAMPLERS = ("model", "random", "tpe", "nsga2")
OUTCOME = "outcome"  # the attribute of a trial that holds it


def optuna() -> Any:
    """Return the library, quiet; raise LissomError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise LissomError("search: Optuna is not installed: pip install 'lissom[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Study:
    """Outcomes of one search, by the name that its space, goal and task give it."""

    def __init__(
        self, space: SearchSpace, goal: Goal, name: str, storage: str, by: str, seed: int
    ) -> None:
        if by not in SAMPLERS:
            raise unknown("--by", "way to search", by, SAMPLERS)
        self.optuna = optuna()
        self.space = space
        self.goal = goal
        try:
            self.study = self.optuna.create_study(
                storage=self._storage(storage),
                study_name=name,
                directions=["maximize" if sign > 0 else "minimize" for _, sign in goal.aims],
                load_if_exists=True,
            )
        except Exception as error:  # those of the database's driver
            reason = str(error).strip().splitlines()[0]
            place = re.sub(r"//[^/@]*@", "//...@", storage)  # a password is nobody's business
            raise LissomError(f"--storage: {place} cannot be opened: {reason:.200}") from error
        # a continued search goes on with other draws
        self.study.sampler = self._sampler(by, seed + len(self.study.trials))

    def _storage(self, storage: str) -> Any:
        if "://" in storage:
            from optuna.storages import RDBStorage
            from sqlalchemy.pool import NullPool

            # no connection stays open behind a search that has ended
            return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage, JournalFileOpenLock(storage)))

    def _sampler(self, by: str, seed: int) -> Any:
        samplers = self.optuna.samplers
        if by == "tpe":
            return samplers.TPESampler(seed=seed)
        if by == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=10)
        return samplers.RandomSampler(seed=seed)

    def outcomes(self) -> list[Outcome]:
        """Return all outcomes, the oldest first."""
        return [
            Outcome.of(trial.user_attrs[OUTCOME])
            for trial in self.study.trials
            if OUTCOME in trial.user_attrs
        ]

    def ask(self) -> tuple[Any, Point]:
        """Return a trial and the point that the sampler wants to be tried."""
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

    def add(self, outcome: Outcome, trial: Any = None) -> None:
        """Keep an outcome: that of a `trial` which was asked for, or of a point from elsewhere."""
        values = [outcome.values[name] for name, _ in self.goal.aims]
        constraints = {
            bound.name: bound.excess(outcome.values[bound.name]) for bound in self.goal.bounds
        }
        state = self.optuna.trial.TrialState.PRUNED if outcome.probe else None
        if trial is not None:
            trial.set_user_attr(OUTCOME, outcome.json())
            for name, excess in constraints.items():
                trial.set_constraint(name, excess)
            self.study.tell(trial, None if outcome.probe else values, state=state)
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
                values=None if outcome.probe else values,
                state=state or self.optuna.trial.TrialState.COMPLETE,
                user_attrs={OUTCOME: outcome.json()},
                constraints=constraints,
            )
        )

    def fail(self, trial: Any) -> None:
        """Note that a trial came to nothing."""
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
        """Return which share of how a value varies comes from each choice (fANOVA); {} where too
        little is known.

        Source: Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance
        """
        try:
            found = self.optuna.importance.get_param_importances(
                self.study,
                evaluator=self.optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial: trial.user_attrs[OUTCOME]["values"][name],
            )
        except (ValueError, RuntimeError, KeyError):
            return {}
        return {name: round(float(share), 4) for name, share in found.items()}


def study_name(*parts: object) -> str:
    """Return the name of a search: the same parts have one name."""
    return "lissom-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
