"""Champion or not: a challenger replaces the incumbent only when not worse on the same held-out rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from scoring.release import ReleasedModel
from training.dataset import Examples
from training.evaluation import figures_by_population, predict_in_order, primary
from training.metrics import not_worse
from training.models import SPECS, ModelSpec
from training.split import REPORT


@dataclass(frozen=True)
class Decision:
    """One model's decision. `challenger` and `incumbent` are the primary figure on the same rows."""

    model: str
    replaced: bool
    reason: str
    figure: str
    population: str
    challenger: float | None
    incumbent: float | None
    incumbent_origin: str | None

    @property
    def described(self) -> str:
        """What became of the model, and why, in a few words."""
        if self.replaced:
            return f"new: {self.reason}"
        return f"kept: {self.reason}" if self.incumbent_origin else self.reason

    def as_json(self) -> dict[str, object]:
        """The decision as plain values."""
        return asdict(self)


def decide(
    challengers: Mapping[str, ReleasedModel],
    incumbents: Mapping[str, ReleasedModel] | None,
    examples: Mapping[str, Examples],
    specs: tuple[ModelSpec, ...] = SPECS,
) -> tuple[dict[str, ReleasedModel], dict[str, Decision]]:
    """The models of the new bundle, in the order of `specs`, and why each is in it.

    Both are judged on the challenger's report block, whose customers no version was ever fitted on or chosen
    with. The 30-day churn model is decided first: both 14-day models are then judged as they would be
    published beside it.
    """
    chosen: dict[str, ReleasedModel] = {}
    decisions: dict[str, Decision] = {}
    for spec in sorted(specs, key=lambda spec: spec.name == "churn_risk_14d"):
        longer = chosen.get("churn_risk_30d")
        incumbent = None if incumbents is None else incumbents.get(spec.name)
        chosen[spec.name], decisions[spec.name] = _decide_one(
            spec, challengers[spec.name], incumbent, examples[spec.name].of(REPORT), longer
        )
    names = [spec.name for spec in specs]
    return {name: chosen[name] for name in names}, {name: decisions[name] for name in names}


def not_trained(spec: ModelSpec, reason: str, incumbent: ReleasedModel | None) -> Decision:
    """The decision about a model without a challenger, which stays what it was."""
    return Decision(
        model=spec.name,
        replaced=False,
        reason=f"not trained: {reason}",
        figure=spec.primary_figure,
        population=spec.primary_population,
        challenger=None,
        incumbent=None,
        incumbent_origin=None if incumbent is None else incumbent.origin_version,
    )


def becomes_champion(decisions: Mapping[str, Decision]) -> bool:
    """A bundle becomes champion when at least one of its boosters is new."""
    return any(decision.replaced for decision in decisions.values())


def _decide_one(
    spec: ModelSpec,
    challenger: ReleasedModel,
    incumbent: ReleasedModel | None,
    reporting: Examples,
    longer: ReleasedModel | None,
) -> tuple[ReleasedModel, Decision]:
    def figure_of(model: ReleasedModel) -> float:
        return primary(
            spec, figures_by_population(spec, reporting, predict_in_order(model, reporting, longer))
        )

    challenging = figure_of(challenger)
    defending = None
    if incumbent is None:
        replaced, reason = True, "first version"
    else:
        try:
            defending = figure_of(incumbent)
        except KeyError as error:
            # A feature was taken out of the service: the incumbent cannot be scored any more.
            replaced, reason = (
                True,
                f"the incumbent needs features that are no longer served: {error.args[0]}",
            )
        else:
            replaced = not_worse(spec.primary_figure, challenging, defending)
            reason = (
                "not worse than the incumbent"
                if replaced
                else "worse than the incumbent, which is carried over"
            )
    decision = Decision(
        model=spec.name,
        replaced=replaced,
        reason=reason,
        figure=spec.primary_figure,
        population=spec.primary_population,
        challenger=challenging,
        incumbent=defending,
        incumbent_origin=None if incumbent is None else incumbent.origin_version,
    )
    return (challenger if replaced else incumbent), decision
