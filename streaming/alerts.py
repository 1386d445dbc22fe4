"""When a customer calls for attention: rules on predictions and features, and what an alert says."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A bound that a customer crosses into, or not. The thresholds are defined here and nowhere else."""

    name: str
    column: str
    """Of the features or the predictions."""
    threshold: float
    above: bool
    """Whether values beyond the threshold lie above it; else below."""
    includes_threshold: bool

    def holds(self, value: float) -> bool:
        """Whether a value lies on the side that alerts."""
        if value == self.threshold:
            return self.includes_threshold
        return bool(value > self.threshold) == self.above

    def sentence(self, customer: str, value: float) -> str:
        """What happened, for a person."""
        number = f"{value:g}" if value == int(value) else f"{value:.2f}"
        verb = "reached" if self.includes_threshold else "rose above" if self.above else "fell below"
        return f"{self.name.replace('_', ' ')} of {customer} {verb} {self.threshold:g}: {number}"


RULES = (
    # More likely to leave than not, with a margin for calibration that is off by some hundredths.
    Rule("churn_risk_30d", "churn_risk_30d", 0.6, above=True, includes_threshold=False),
    # The upper end of the tier "critical" (seeds/health_tiers.csv), whose action is an emergency campaign.
    Rule("health_score", "health_score", 40, above=False, includes_threshold=False),
    # One call is a question. The second within two weeks says that the first did not settle it.
    Rule("inbound_calls_14d", "ib_call_count_14d", 2, above=True, includes_threshold=True),
)

_NAMESPACE = uuid.UUID("6f4c1f4e-6b0c-4d53-9d0b-6f4d0f1f7f4e")
_CONTEXT = (
    "model_version",
    "health_tier",
    "churn_risk_30d",
    "health_score",
    "reason_1",
    "reason_2",
    "reason_3",
)


@dataclass(frozen=True)
class Alert:
    """A crossing, ready to be sent. ``alert_id`` is the same whenever the same crossing is told again."""

    alert_id: str
    customer_id: str
    rule: str
    message: str
    """All of it as one line of JSON."""


def crossing(rule: Rule, customer: str, known_at: datetime, row: Mapping[str, Any]) -> Alert:
    """The alert for a customer who came to the other side in the row that was published for ``known_at``."""
    value = float(row[rule.column])
    # A customer is published once at a time, so rule, customer and time name the crossing.
    alert_id = str(uuid.uuid5(_NAMESPACE, f"{customer}|{rule.name}|{known_at.isoformat()}"))
    return Alert(
        alert_id,
        customer,
        rule.name,
        json.dumps(
            {
                "alert_id": alert_id,
                "customer_id": customer,
                "rule": rule.name,
                "sentence": rule.sentence(customer, value),
                "value": value,
                "threshold": rule.threshold,
                "known_at": known_at.isoformat(),
                **{name: _plain(row[name]) for name in _CONTEXT if name in row},
            }
        ),
    )


def sides(row: Mapping[str, Any]) -> dict[str, bool]:
    """By rule, whether a row of features and predictions lies on the side that alerts; only for values that
    are there.
    """
    return {rule.name: rule.holds(row[rule.column]) for rule in RULES if _plain(row[rule.column]) is not None}


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value
