with run as (
    select as_of from {{ ref('int_as_of') }}
),

features as (
    select
        customer_id,
        feature_timestamp,
        session_frequency_30d,
        avg_rating_30d,
        payment_success_rate_30d,
        ib_call_count_14d,
        days_since_last_session,
        total_sessions_lifetime,
        customer_tenure_days,
        tutor_consistency_score
    from {{ ref('customer_features') }}
),

lapses as (
    select * from {{ ref('int_label_lapses') }}
),

outcomes as (
    select * from {{ ref('int_label_outcomes') }}
),

indexed as (
    select
        customer_id,
        feature_timestamp,
        {{ health_index(
            'session_frequency_30d', 'days_since_last_session', 'avg_rating_30d', 'payment_success_rate_30d',
            'ib_call_count_14d', 'tutor_consistency_score'
        ) }} as health_index,
        {# Until a first session the clock runs from signup, as it does for a lapse. #}
        case when total_sessions_lifetime > 0 then days_since_last_session else customer_tenure_days end as idle_days
    from features
),

labelled as (
    select
        indexed.customer_id,
        indexed.feature_timestamp,
        indexed.health_index,
        indexed.idle_days,
        lapses.has_lapse_14d,
        lapses.has_lapse_30d,
        outcomes.sessions_per_week_28d,
        outcomes.health_score,
        outcomes.first_session_success,
        {{ dbt.datediff('indexed.feature_timestamp', 'run.as_of', 'day') }}
            as days_of_data
    from indexed
    cross join run
    inner join lapses
        on
            indexed.customer_id = lapses.customer_id
            and indexed.feature_timestamp = lapses.feature_timestamp
    inner join outcomes
        on
            indexed.customer_id = outcomes.customer_id
            and indexed.feature_timestamp = outcomes.feature_timestamp
),

-- A label is mature once the data reach past the last moment that it depends on.
final as (
    select
        customer_id,
        feature_timestamp,
        case when days_of_data >= 14 + {{ var('lapse_days') }} then has_lapse_14d end as label_churn_risk_14d,
        case when days_of_data >= 30 + {{ var('lapse_days') }} then has_lapse_30d end as label_churn_risk_30d,
        case when days_of_data >= 28 then sessions_per_week_28d end as label_session_velocity,
        case when days_of_data >= 30 then health_score end as label_health_score,
        case when days_of_data >= 21 then first_session_success end as label_first_session_success,
        health_index,
        case
            when idle_days >= {{ var('lapse_days') }} then 'churned'
            when health_index >= {{ tier_minimum('thriving') }} then 'thriving'
            when health_index >= {{ tier_minimum('healthy') }} then 'healthy'
            else 'at_risk'
        end as segment
    from labelled
)

select * from final
