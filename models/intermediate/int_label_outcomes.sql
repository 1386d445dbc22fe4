{%- set horizon = 30 -%}
{%- set first_due = first_snapshot_due(
    ref('int_labels_due'), ref('int_customer_lifetime'), ref('int_customer_day_tiles')
) %}
with due as (
    select
        customer_id,
        {{ customer_key('customer_id') }} as customer_key,
        snapshot_date,
        is_late,
        recorded_in
    from {{ ref('int_labels_due') }}
),

late_customers as (
    select distinct
        customer_id,
        customer_key
    from due
    where is_late
),

-- By now all versions are in: what a tile gave and took back cancels out, and the latest version remains.
tiles as (
    select
        tiles.customer_key,
        tiles.event_date,
        tiles.completed_sessions,
        tiles.rating_stars,
        tiles.ratings,
        tiles.inbound_calls,
        tiles.succeeded_payments,
        tiles.failed_payments,
        late_customers.customer_id is not null as is_late
    from {{ ref('int_customer_day_tiles') }} as tiles
    left join late_customers
        on tiles.customer_key = late_customers.customer_key
    where
        {{ counts_in_labels('tiles') }}
        {%- if first_due %}
        and tiles.changed_on > {{ as_date(first_due) }}
        {%- endif %}
),

completed_sessions as (
    select
        sessions.session_id,
        sessions.customer_id,
        sessions.tutor_id,
        sessions.completed_at,
        sessions.rating,
        sessions.rated_at,
        late_customers.customer_id is not null as is_late
    from {{ ref('int_completed_sessions') }} as sessions
    left join late_customers
        on sessions.customer_id = late_customers.customer_id
    {%- if first_due %}
    where sessions.completed_at >= {{ as_date(first_due) }}
    {%- endif %}
),

-- The few customers about whom something came late have labels due at snapshots where nobody else has.
snapshots as (
    select distinct
        snapshot_date,
        is_late
    from due
),

window_days as (
    {%- for day in range(horizon) %}
    select
        snapshot_date,
        is_late,
        {{ days_from('snapshot_date', day) }} as event_date,
        {{ day }} as days_ahead
    from snapshots
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

sums as (
    select
        tiles.customer_key,
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
        on
            tiles.event_date = window_days.event_date
            and tiles.is_late = window_days.is_late
    group by tiles.customer_key, window_days.snapshot_date
),

-- Sums over everything before D + 30 days, for averages without an observation in the window: each day counts from the
-- first snapshot whose window ends after it.
first_snapshots as (
    select
        event_dates.event_date,
        event_dates.is_late,
        min(snapshots.snapshot_date) as snapshot_date
    from (
        select distinct
            event_date,
            is_late
        from tiles
    ) as event_dates
    inner join snapshots
        on
            event_dates.is_late = snapshots.is_late
            and event_dates.event_date < {{ days_from('snapshots.snapshot_date', horizon) }}
    group by event_dates.event_date, event_dates.is_late
),

arrivals as (
    select
        tiles.customer_key,
        first_snapshots.snapshot_date,
        sum(tiles.completed_sessions) as completed_sessions,
        sum(tiles.rating_stars) as rating_stars,
        sum(tiles.ratings) as ratings,
        sum(tiles.succeeded_payments) as succeeded_payments,
        sum(tiles.succeeded_payments + tiles.failed_payments) as payments
    from tiles
    inner join first_snapshots
        on
            tiles.event_date = first_snapshots.event_date
            and tiles.is_late = first_snapshots.is_late
    group by tiles.customer_key, first_snapshots.snapshot_date
    {%- if first_due %}
    union all
    select
        customer_key,
        snapshot_date,
        completed_sessions_lifetime as completed_sessions,
        rating_stars_lifetime as rating_stars,
        ratings_lifetime as ratings,
        succeeded_payments_lifetime as succeeded_payments,
        succeeded_payments_lifetime + failed_payments_lifetime as payments
    from {{ ref('int_customer_lifetime') }}
    where snapshot_date = {{ as_date(first_due) }}
    {%- endif %}
),

steps as (
    select
        customer_key,
        snapshot_date,
        completed_sessions,
        rating_stars,
        ratings,
        succeeded_payments,
        payments
    from arrivals
    union all
    select
        customer_key,
        snapshot_date,
        0 as completed_sessions,
        0 as rating_stars,
        0 as ratings,
        0 as succeeded_payments,
        0 as payments
    from due
),

lifetime as (
    select
        customer_key,
        snapshot_date,
        sum(sum(completed_sessions)) over so_far as completed_sessions_lifetime,
        sum(sum(rating_stars)) over so_far as rating_stars_lifetime,
        sum(sum(ratings)) over so_far as ratings_lifetime,
        sum(sum(succeeded_payments)) over so_far as succeeded_payments_lifetime,
        sum(sum(payments)) over so_far as payments_lifetime
    from steps
    group by customer_key, snapshot_date
    window so_far as (
        partition by customer_key
        order by snapshot_date
        rows between unbounded preceding and current row
    )
),

totals as (
    select
        due.customer_id,
        due.snapshot_date,
        due.recorded_in,
        coalesce(sums.completed_sessions_28d, 0) as completed_sessions_28d,
        coalesce(sums.completed_sessions_30d, 0) as completed_sessions_30d,
        lifetime.completed_sessions_lifetime - coalesce(sums.completed_sessions_30d, 0) as completed_sessions_before,
        sums.rating_stars_30d,
        sums.ratings_30d,
        sums.succeeded_payments_30d,
        sums.payments_30d,
        coalesce(sums.inbound_calls_last_14d, 0) as inbound_calls_last_14d,
        lifetime.rating_stars_lifetime,
        lifetime.ratings_lifetime,
        lifetime.succeeded_payments_lifetime,
        lifetime.payments_lifetime
    from due
    inner join lifetime
        on
            due.customer_key = lifetime.customer_key
            and due.snapshot_date = lifetime.snapshot_date
    left join sums
        on
            due.customer_key = sums.customer_key
            and due.snapshot_date = sums.snapshot_date
),

-- The sessions of the window, for recency and the share of the most frequent tutor among the last 20
window_sessions as (
    select
        completed_sessions.customer_id,
        window_days.snapshot_date,
        completed_sessions.tutor_id,
        completed_sessions.session_id,
        completed_sessions.completed_at,
        completed_sessions.rating,
        completed_sessions.rated_at,
        row_number() over (
            partition by completed_sessions.customer_id, window_days.snapshot_date
            order by completed_sessions.completed_at desc, completed_sessions.session_id desc
        ) as recency
    from completed_sessions
    inner join window_days
        on
            cast(completed_sessions.completed_at as date) = window_days.event_date
            and completed_sessions.is_late = window_days.is_late
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

-- Of customers with no completed session before D
first_sessions as (
    select
        customer_id,
        snapshot_date,
        completed_at,
        rating,
        rated_at
    from (
        select
            window_sessions.*,
            row_number() over (
                partition by window_sessions.customer_id, window_sessions.snapshot_date
                order by window_sessions.completed_at, window_sessions.session_id
            ) as session_number
        from window_sessions
        inner join totals
            on
                window_sessions.customer_id = totals.customer_id
                and window_sessions.snapshot_date = totals.snapshot_date
        where totals.completed_sessions_before = 0
    ) as numbered
    where session_number = 1
),

joined as (
    select
        totals.customer_id,
        totals.snapshot_date,
        totals.recorded_in,
        totals.completed_sessions_28d,
        totals.completed_sessions_30d * cast(7.0 as double) / {{ horizon }} as sessions_per_week,
        {# No session in the window means 30 days or more back, where recency is used up. #}
        coalesce(
            {{ whole_days('tutor_consistency.last_completed_at', days_from('totals.snapshot_date', horizon)) }},
            {{ horizon }}
        ) as days_since_last_session,
        {{ ratio(
            'totals.rating_stars_30d', 'totals.ratings_30d',
            otherwise=ratio('totals.rating_stars_lifetime', 'totals.ratings_lifetime', var('neutral_rating'))
        ) }} as average_rating,
        {{ ratio(
            'totals.succeeded_payments_30d', 'totals.payments_30d',
            otherwise=ratio('totals.succeeded_payments_lifetime', 'totals.payments_lifetime', 1.0)
        ) }} as payment_success_rate,
        totals.inbound_calls_last_14d,
        coalesce(tutor_consistency.tutor_consistency, 0.0) as tutor_consistency,
        case
            when
                first_sessions.completed_at < {{ days_from('totals.snapshot_date', 14) }}
                and first_sessions.rated_at <= {{ dbt.dateadd('day', 7, 'first_sessions.completed_at') }}
                and first_sessions.rating is not null
                then case when first_sessions.rating >= {{ var('success_rating') }} then 1 else 0 end
        end as first_session_success
    from totals
    left join tutor_consistency
        on
            totals.customer_id = tutor_consistency.customer_id
            and totals.snapshot_date = tutor_consistency.snapshot_date
    left join first_sessions
        on
            totals.customer_id = first_sessions.customer_id
            and totals.snapshot_date = first_sessions.snapshot_date
),

final as (
    select
        customer_id,
        cast(snapshot_date as timestamp) as feature_timestamp,
        recorded_in,
        completed_sessions_28d / cast(4.0 as double) as sessions_per_week_28d,
        {{ health_index(
            'sessions_per_week', 'days_since_last_session', 'average_rating', 'payment_success_rate',
            'inbound_calls_last_14d', 'tutor_consistency'
        ) }} as health_score,
        first_session_success
    from joined
)

select * from final
