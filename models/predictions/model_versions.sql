{{ config(materialized='table') }}
with releases as (
    {{ released_models() }}
),

final as (
    select
        model_version,
        is_champion,
        trained_at,
        data_as_of,
        trained_until,
        training_rows,
        churn_risk_14d_auc,
        churn_risk_14d_auc_not_yet_lapsed,
        churn_risk_30d_auc,
        churn_risk_30d_auc_not_yet_lapsed,
        health_score_mae,
        session_velocity_mae,
        first_session_success_accuracy,
        first_session_success_auc,
        held_out,
        decision
    from releases
)

select * from final
