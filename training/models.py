"""What the five models are: label, features, population, blocks of time, figure that decides.

The features themselves are named in models/features/_features.yml; a model only names its feature service.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

EVERYONE = "everyone"
NOT_YET_LAPSED = "not_yet_lapsed"


@dataclass(frozen=True)
class Baseline:
    """What one would guess without a model.

    `isotonic`: a rising curve through one feature, fitted on the fit block. `value`: the column itself, as
    the last value known. `source` is a feature of the model's service or a column of labels.customer_labels.
    """

    kind: Literal["isotonic", "value"]
    source: str
    described: str


@dataclass(frozen=True)
class ModelSpec:
    """One model. `label_days`: the label of a snapshot D is mature once data reach D + label_days
    (labels-and-health.md).

    `report_weeks` and `choose_weeks` are the lengths of the two later blocks. `only_before_first_session`
    restricts both training and reporting to customers without a completed session.
    """

    name: str
    label: str
    feature_service: str
    kind: Literal["probability", "amount"]
    label_days: int
    primary_figure: str
    primary_population: str
    baseline: Baseline
    lower: float | None = None
    upper: float | None = None
    only_before_first_session: bool = False
    choose_weeks: int = 8
    report_weeks: int = 8
    lightgbm: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


_DAYS_SINCE_LAST_SESSION = Baseline("isotonic", "days_since_last_session", "days since last session alone")

# In the order of the prediction columns (scoring.release.MODEL_NAMES).
SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="churn_risk_14d",
        label="label_churn_risk_14d",
        feature_service="churn_v1",
        kind="probability",
        label_days=44,
        primary_figure="log_loss",
        primary_population=NOT_YET_LAPSED,
        baseline=_DAYS_SINCE_LAST_SESSION,
    ),
    ModelSpec(
        name="churn_risk_30d",
        label="label_churn_risk_30d",
        feature_service="churn_v1",
        kind="probability",
        label_days=60,
        primary_figure="log_loss",
        primary_population=NOT_YET_LAPSED,
        baseline=_DAYS_SINCE_LAST_SESSION,
    ),
    # Both amounts are judged by their mean absolute error, so that is what they minimise: they predict
    # medians.
    ModelSpec(
        name="health_score",
        label="label_health_score",
        feature_service="health_v1",
        kind="amount",
        label_days=30,
        primary_figure="mae",
        primary_population=NOT_YET_LAPSED,
        baseline=Baseline("value", "health_index", "last value: the health index of today"),
        lower=0.0,
        upper=100.0,
        lightgbm={"objective": "regression_l1"},
    ),
    ModelSpec(
        name="session_velocity",
        label="label_session_velocity",
        feature_service="velocity_v1",
        kind="amount",
        label_days=28,
        primary_figure="mae",
        primary_population=NOT_YET_LAPSED,
        baseline=Baseline("value", "session_frequency_30d", "last value: sessions a week over 30 days"),
        lower=0.0,
        lightgbm={"objective": "regression_l1"},
    ),
    # A customer has only a week or two between signup and first session: few rows each, so the blocks are
    # longer and the trees smaller.
    ModelSpec(
        name="first_session_success",
        label="label_first_session_success",
        feature_service="first_session_v1",
        kind="probability",
        label_days=21,
        primary_figure="log_loss",
        primary_population=EVERYONE,
        baseline=Baseline("isotonic", "primary_tutor_rating", "rating of the tutor alone"),
        only_before_first_session=True,
        choose_weeks=13,
        report_weeks=26,
        lightgbm={"num_leaves": 7, "min_data_in_leaf": 40},
    ),
)
