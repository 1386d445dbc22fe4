with sums as (
    select * from {{ ref('int_customer_sums') }}
),

session_order as (
    select * from {{ ref('int_customer_session_order') }}
),

windowed as (
    select
        customer_id,
        feature_timestamp,
        {%- for days in window_days() %}
        cast(completed_sessions_{{ days }}d as integer) as session_count_{{ days }}d,
        completed_sessions_{{ days }}d * cast(7.0 as double) / {{ days }} as session_frequency_{{ days }}d,
        {{ ratio(
            'rating_stars_' ~ days ~ 'd', 'ratings_' ~ days ~ 'd',
            otherwise=ratio('rating_stars_lifetime', 'ratings_lifetime', otherwise=var('neutral_rating'))
        ) }} as avg_rating_{{ days }}d,
        {{ ratio('customer_cancellations_' ~ days ~ 'd', 'resolved_sessions_' ~ days ~ 'd', otherwise=0.0) }}
            as cancellation_rate_{{ days }}d,
        {{ ratio('no_shows_' ~ days ~ 'd', 'resolved_sessions_' ~ days ~ 'd', otherwise=0.0) }}
            as no_show_rate_{{ days }}d,
        {{ ratio(
            'duration_minutes_' ~ days ~ 'd', 'timed_sessions_' ~ days ~ 'd',
            otherwise=ratio('duration_minutes_lifetime', 'timed_sessions_lifetime', otherwise=0.0)
        ) }} as avg_session_duration_{{ days }}d,
        {%- endfor %}
        {{ days_since('latest_completed_session_on', 'snapshot_date') }} as days_since_last_session,
        cast(completed_sessions_lifetime as integer) as total_sessions_lifetime
    from sums
),

final as (
    select
        windowed.customer_id,
        windowed.feature_timestamp,
        {%- for name in ['session_count', 'session_frequency', 'avg_rating', 'cancellation_rate', 'no_show_rate',
            'avg_session_duration'] %}
        {%- for days in window_days() %}
        windowed.{{ name }}_{{ days }}d,
        {%- endfor %}
        {%- endfor %}
        windowed.days_since_last_session,
        windowed.total_sessions_lifetime,
        cast(session_order.first_session_was_success as integer) as first_session_was_success,
        case
            when windowed.session_frequency_30d = 0 then 0.0
            else windowed.session_frequency_7d / windowed.session_frequency_30d - 1
        end as session_velocity_change,
        windowed.avg_rating_7d - windowed.avg_rating_30d as rating_trend
    from windowed
    inner join session_order
        on
            windowed.customer_id = session_order.customer_id
            and windowed.feature_timestamp = session_order.feature_timestamp
)

select * from final
