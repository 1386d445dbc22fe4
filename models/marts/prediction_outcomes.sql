with predictions as (
    select
        customer_id,
        feature_timestamp,
        model_version,
        churn_risk_14d,
        churn_risk_30d,
        health_score,
        session_velocity,
        first_session_success,
        health_tier
    from {{ ref('customer_predictions') }}
),

labels as (
    select
        customer_id,
        feature_timestamp,
        label_churn_risk_14d,
        label_churn_risk_30d,
        label_health_score,
        label_session_velocity,
        label_first_session_success,
        segment
    from {{ ref('customer_labels') }}
),

final as (
    select
        predictions.customer_id,
        predictions.feature_timestamp,
        predictions.model_version,
        predictions.health_tier,
        labels.segment,
        predictions.churn_risk_14d,
        labels.label_churn_risk_14d,
        predictions.churn_risk_30d,
        labels.label_churn_risk_30d,
        predictions.health_score,
        labels.label_health_score,
        predictions.session_velocity,
        labels.label_session_velocity,
        predictions.first_session_success,
        labels.label_first_session_success
    from predictions
    inner join labels
        on
            predictions.customer_id = labels.customer_id
            and predictions.feature_timestamp = labels.feature_timestamp
    where
        coalesce(
            labels.label_churn_risk_14d,
            labels.label_churn_risk_30d,
            labels.label_health_score,
            labels.label_session_velocity,
            labels.label_first_session_success
        ) is not null
)

select * from final
