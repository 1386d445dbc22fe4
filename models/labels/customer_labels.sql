{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key=['customer_id', 'feature_timestamp'],
    on_schema_change='fail',
) }}
{#- What is computed anew takes the place of what was there, for the rows of int_labels_due. -#}
with due as (
    select
        customer_id,
        cast(snapshot_date as timestamp) as feature_timestamp,
        as_of,
        recorded_in
    from {{ ref('int_labels_due') }}
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
        due.as_of,
        due.recorded_in,
        {{ dbt.datediff('due.feature_timestamp', 'due.as_of', 'day') }}
            as days_of_data
    from due
    inner join indexed
        on
            due.customer_id = indexed.customer_id
            and due.feature_timestamp = indexed.feature_timestamp
    inner join lapses
        on
            due.customer_id = lapses.customer_id
            and due.feature_timestamp = lapses.feature_timestamp
            and due.recorded_in = lapses.recorded_in
    inner join outcomes
        on
            due.customer_id = outcomes.customer_id
            and due.feature_timestamp = outcomes.feature_timestamp
            and due.recorded_in = outcomes.recorded_in
),

-- A label is mature once the data reach past the last moment that it depends on.
final as (
    select
        customer_id,
        feature_timestamp,
        {%- for label, value in {
            'label_churn_risk_14d': 'has_lapse_14d',
            'label_churn_risk_30d': 'has_lapse_30d',
            'label_session_velocity': 'sessions_per_week_28d',
            'label_health_score': 'health_score',
            'label_first_session_success': 'first_session_success',
        }.items() %}
        case when days_of_data >= {{ label_horizons()[label] }} then {{ value }} end as {{ label }},
        {%- endfor %}
        health_index,
        case
            when idle_days >= {{ var('lapse_days') }} then 'churned'
            when health_index >= {{ tier_minimum('thriving') }} then 'thriving'
            when health_index >= {{ tier_minimum('healthy') }} then 'healthy'
            else 'at_risk'
        end as segment,
        as_of,
        recorded_in
    from labelled
)

select * from final
