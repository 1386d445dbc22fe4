{%- set horizon = 30 -%}
with features as (
    select
        customer_id,
        cast(feature_timestamp as date) as snapshot_date
    from {{ ref('customer_features') }}
),

-- By now all versions are in: what a tile gave and took back cancels out, and the latest version remains.
tiles as (
    select
        customer_id,
        event_date,
        completed_sessions,
        rating_stars,
        ratings,
        inbound_calls,
        succeeded_payments,
        failed_payments
    from {{ ref('int_customer_day_tiles') }}
),

completed_sessions as (
    select
        session_id,
        customer_id,
        tutor_id,
        completed_at
    from {{ ref('int_completed_sessions') }}
),

snapshots as (
    select distinct snapshot_date from features
),

window_days as (
    {%- for day in range(horizon) %}
    select
        snapshot_date,
        {{ days_from('snapshot_date', day) }} as event_date,
        {{ day }} as days_ahead
    from snapshots
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

sums as (
    select
        tiles.customer_id,
        window_days.snapshot_date,
        sum(case when window_days.days_ahead < 28 then tiles.completed_sessions else 0 end) as completed_sessions_28d,
        sum(tiles.completed_sessions) as completed_sessions_30d,
        sum(tiles.rating_stars) as rating_stars_30d,
        sum(tiles.ratings) as ratings_30d,
        sum(tiles.succeeded_payments) as succeeded_payments_30d,
        sum(tiles.succeeded_payments + tiles.failed_payments) as payments_30d,
        sum(case when window_days.days_ahead >= {{ horizon - 14 }} then tiles.inbound_calls else 0 end)
            as inbound_calls_last_14d
    from tiles
    inner join window_days
        on tiles.event_date = window_days.event_date
    group by tiles.customer_id, window_days.snapshot_date
),

-- Sums over everything before D + 30 days, for averages without an observation in the window: each day counts from the
-- first snapshot whose window ends after it.
first_snapshots as (
    select
        event_dates.event_date,
        min(snapshots.snapshot_date) as snapshot_date
    from (select distinct event_date from tiles) as event_dates
    inner join snapshots
        on event_dates.event_date < {{ days_from('snapshots.snapshot_date', horizon) }}
    group by event_dates.event_date
),

arrivals as (
    select
        tiles.customer_id,
        first_snapshots.snapshot_date,
        sum(tiles.rating_stars) as rating_stars,
        sum(tiles.ratings) as ratings,
        sum(tiles.succeeded_payments) as succeeded_payments,
        sum(tiles.succeeded_payments + tiles.failed_payments) as payments
    from tiles
    inner join first_snapshots
        on tiles.event_date = first_snapshots.event_date
    group by tiles.customer_id, first_snapshots.snapshot_date
),

due as (
    select
        customer_id,
        snapshot_date
    from arrivals
    union
    select
        customer_id,
        snapshot_date
    from features
),

lifetime as (
    select
        due.customer_id,
        due.snapshot_date,
        sum(arrivals.rating_stars) over so_far as rating_stars_lifetime,
        sum(arrivals.ratings) over so_far as ratings_lifetime,
        sum(arrivals.succeeded_payments) over so_far as succeeded_payments_lifetime,
        sum(arrivals.payments) over so_far as payments_lifetime
    from due
    left join arrivals
        on
            due.customer_id = arrivals.customer_id
            and due.snapshot_date = arrivals.snapshot_date
    window so_far as (
        partition by due.customer_id
        order by due.snapshot_date
        rows between unbounded preceding and current row
    )
),

-- The sessions of the window, for recency and the share of the most frequent tutor among the last 20
window_sessions as (
    select
        completed_sessions.customer_id,
        window_days.snapshot_date,
        completed_sessions.tutor_id,
        completed_sessions.completed_at,
        row_number() over (
            partition by completed_sessions.customer_id, window_days.snapshot_date
            order by completed_sessions.completed_at desc, completed_sessions.session_id desc
        ) as recency
    from completed_sessions
    inner join window_days
        on cast(completed_sessions.completed_at as date) = window_days.event_date
),

window_tutors as (
    select
        customer_id,
        snapshot_date,
        tutor_id,
        count(*) as sessions,
        max(completed_at) as last_completed_at
    from window_sessions
    where recency <= 20
    group by customer_id, snapshot_date, tutor_id
),

tutor_consistency as (
    select
        customer_id,
        snapshot_date,
        cast(max(sessions) as double) / sum(sessions) as tutor_consistency,
        max(last_completed_at) as last_completed_at
    from window_tutors
    group by customer_id, snapshot_date
),

first_sessions as (
    select
        customer_id,
        completed_at,
        rating,
        rated_at
    from (
        select
            *,
            row_number() over (partition by customer_id order by completed_at, session_id) as session_number
        from {{ ref('int_completed_sessions') }}
    ) as numbered
    where session_number = 1
),

joined as (
    select
        features.customer_id,
        features.snapshot_date,
        coalesce(sums.completed_sessions_28d, 0) as completed_sessions_28d,
        coalesce(sums.completed_sessions_30d, 0) * cast(7.0 as double) / {{ horizon }} as sessions_per_week,
        {# No session in the window means 30 days or more back, where recency is used up. #}
        coalesce(
            {{ whole_days('tutor_consistency.last_completed_at', days_from('features.snapshot_date', horizon)) }},
            {{ horizon }}
        ) as days_since_last_session,
        {{ ratio(
            'sums.rating_stars_30d', 'sums.ratings_30d',
            otherwise=ratio('lifetime.rating_stars_lifetime', 'lifetime.ratings_lifetime', var('neutral_rating'))
        ) }} as average_rating,
        {{ ratio(
            'sums.succeeded_payments_30d', 'sums.payments_30d',
            otherwise=ratio('lifetime.succeeded_payments_lifetime', 'lifetime.payments_lifetime', 1.0)
        ) }} as payment_success_rate,
        coalesce(sums.inbound_calls_last_14d, 0) as inbound_calls_last_14d,
        coalesce(tutor_consistency.tutor_consistency, 0.0) as tutor_consistency,
        case
            when
                first_sessions.completed_at >= features.snapshot_date
                and first_sessions.completed_at < {{ days_from('features.snapshot_date', 14) }}
                and first_sessions.rated_at <= {{ dbt.dateadd('day', 7, 'first_sessions.completed_at') }}
                and first_sessions.rating is not null
                then case when first_sessions.rating >= {{ var('success_rating') }} then 1 else 0 end
        end as first_session_success
    from features
    inner join lifetime
        on
            features.customer_id = lifetime.customer_id
            and features.snapshot_date = lifetime.snapshot_date
    left join sums
        on
            features.customer_id = sums.customer_id
            and features.snapshot_date = sums.snapshot_date
    left join tutor_consistency
        on
            features.customer_id = tutor_consistency.customer_id
            and features.snapshot_date = tutor_consistency.snapshot_date
    left join first_sessions
        on features.customer_id = first_sessions.customer_id
),

final as (
    select
        customer_id,
        cast(snapshot_date as timestamp) as feature_timestamp,
        completed_sessions_28d / cast(4.0 as double) as sessions_per_week_28d,
        {{ health_index(
            'sessions_per_week', 'days_since_last_session', 'average_rating', 'payment_success_rate',
            'inbound_calls_last_14d', 'tutor_consistency'
        ) }} as health_score,
        first_session_success
    from joined
)

select * from final
