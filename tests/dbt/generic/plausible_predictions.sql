{#-
    Every row carries all its predictions, within their ranges and in order; probabilities and the tier come from a known
    score. first_session_success alone may be null.
-#}
{% test plausible_predictions(model) %}
    select *
    from {{ model }}
    where
        coalesce(churn_risk_14d between 0 and churn_risk_30d, false) is false
        or coalesce(churn_risk_30d between 0 and 1, false) is false
        or coalesce(health_score between 0 and 100, false) is false
        or coalesce(session_velocity >= 0, false) is false
        or first_session_success not between 0 and 1
        or health_tier is null
        or reason_1 is null
{% endtest %}
