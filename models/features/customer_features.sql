{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    meta={'snapshots_per_pass': 4},
    post_hook={'sql': "{{ export_features(this) }}", 'transaction': false},
) }}
with sums as (
    select * from {{ ref('int_customer_sums') }}
),

session_order as (
    select * from {{ ref('int_customer_session_order') }}
    where snapshot_date in ({{ snapshots_without_features() }})
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

features as (
    select
        sums.customer_id,
        cast(sums.snapshot_date as timestamp) as feature_timestamp,

        -- Sessions
        {%- for days in window_days() %}
        cast(sums.completed_sessions_{{ days }}d as integer) as session_count_{{ days }}d,
        sums.completed_sessions_{{ days }}d * cast(7.0 as double) / {{ days }} as session_frequency_{{ days }}d,
        {{ ratio(
            'sums.rating_stars_' ~ days ~ 'd', 'sums.ratings_' ~ days ~ 'd',
            otherwise=ratio('sums.rating_stars_lifetime', 'sums.ratings_lifetime', otherwise=var('neutral_rating'))
        ) }} as avg_rating_{{ days }}d,
        {{ ratio(
            'sums.customer_cancellations_' ~ days ~ 'd', 'sums.resolved_sessions_' ~ days ~ 'd', otherwise=0.0
        ) }} as cancellation_rate_{{ days }}d,
        {{ ratio('sums.no_shows_' ~ days ~ 'd', 'sums.resolved_sessions_' ~ days ~ 'd', otherwise=0.0) }}
            as no_show_rate_{{ days }}d,
        {{ ratio(
            'sums.duration_minutes_' ~ days ~ 'd', 'sums.timed_sessions_' ~ days ~ 'd',
            otherwise=ratio('sums.duration_minutes_lifetime', 'sums.timed_sessions_lifetime', otherwise=0.0)
        ) }} as avg_session_duration_{{ days }}d,
        {%- endfor %}
        {{ days_since('sums.latest_completed_session_on', 'sums.snapshot_date') }} as days_since_last_session,
        cast(sums.completed_sessions_lifetime as integer) as total_sessions_lifetime,
        cast(session_order.first_session_was_success as integer) as first_session_was_success,

        -- Calls
        {%- for days in window_days() %}
        cast(sums.inbound_calls_{{ days }}d as integer) as ib_call_count_{{ days }}d,
        cast(sums.negative_calls_{{ days }}d as integer) as negative_calls_{{ days }}d,
        {%- endfor %}
        {{ days_since('sums.latest_inbound_call_on', 'sums.snapshot_date') }} as days_since_last_ib_call,

        -- Engagement
        {%- for days in window_days() %}
        cast(sums.logins_{{ days }}d as integer) as login_count_{{ days }}d,
        cast(sums.messages_{{ days }}d as integer) as message_count_{{ days }}d,
        cast(sums.active_days_{{ days }}d as integer) as active_days_{{ days }}d,
        {%- endfor %}
        {{ days_since('sums.latest_login_on', 'sums.snapshot_date') }} as days_since_last_login,

        -- Payments
        {%- for days in window_days() %}
        {{ ratio(
            'sums.succeeded_payments_' ~ days ~ 'd',
            '(sums.succeeded_payments_' ~ days ~ 'd + sums.failed_payments_' ~ days ~ 'd)',
            otherwise=ratio(
                'sums.succeeded_payments_lifetime',
                '(sums.succeeded_payments_lifetime + sums.failed_payments_lifetime)',
                otherwise=1.0
            )
        ) }} as payment_success_rate_{{ days }}d,
        cast(sums.net_amount_{{ days }}d as double) as payment_amount_{{ days }}d,
        {%- endfor %}
        {{ days_since('sums.latest_succeeded_payment_on', 'sums.snapshot_date') }} as days_since_last_payment,
        cast(sums.net_amount_lifetime as double) as total_spend_lifetime,

        -- Tutors. Response time: the mean in seconds, then in hours
        cast(session_order.primary_subject as integer) as primary_subject,
        session_order.tutor_consistency_score,
        session_order.primary_tutor_rating,
        cast(session_order.tutor_switches as integer) as tutor_switch_count_30d,
        coalesce(
            {{ ratio(
                '(sums.response_microseconds_30d / cast(1e6 as double))', 'sums.confirmations_30d',
                otherwise=ratio(
                    '(sums.response_microseconds_lifetime / cast(1e6 as double))', 'sums.confirmations_lifetime',
                    otherwise='null'
                )
            ) }} / 3600,
            {{ var('neutral_response_hours') }}
        ) as avg_tutor_response_time_hours,

        -- Profile
        cast({{ whole_days('sums.signed_up_at', 'sums.snapshot_date') }} as integer) as customer_tenure_days,
        coalesce(profiles.subscription_tier, -1) as subscription_tier,
        coalesce(profiles.acquisition_channel, -1) as acquisition_channel,
        coalesce(profiles.grade_level, -1) as grade_level
    from sums
    inner join session_order
        on
            sums.customer_key = session_order.customer_key
            and sums.snapshot_date = session_order.snapshot_date
    left join profiles
        on
            sums.customer_key = profiles.customer_key
            and {{ is_visible_at('sums.snapshot_date', 'profiles') }}
),

-- What compares windows
compared as (
    select
        *,
        case
            when session_frequency_30d = 0 then 0.0
            else session_frequency_7d / session_frequency_30d - 1
        end as session_velocity_change,
        avg_rating_7d - avg_rating_30d as rating_trend,
        login_count_7d - login_count_14d / cast(2.0 as double) as engagement_trend,
        payment_amount_7d / 7 - payment_amount_30d / 30 as spend_acceleration
    from features
),

final as (
    select
        customer_id,
        feature_timestamp
        {%- for name in feature_names() %},
        {{ name }}
        {%- endfor %}
    from compared
)

select * from final
