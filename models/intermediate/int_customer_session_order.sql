{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
with spine as (
    select
        customer_id,
        snapshot_date
    from {{ ref('int_customer_sums') }}
    where snapshot_date in ({{ missing_snapshots() }})
),

session_outcomes as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        outcome_known_at,
        visible_from,
        visible_until
    from {{ ref('int_session_outcomes') }}
    where status = 'completed'
),

session_versions as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        scheduled_at,
        status,
        resolved_at,
        {{ visible_from('booked_at') }} as visible_from,
        in_force_until as visible_until
    from {{ ref('stg_sessions') }}
    where {{ is_ever_visible('booked_at') }}
),

ratings as (
    select * from {{ ref('int_session_ratings') }}
),

subjects as (
    select
        subject,
        code
    from {{ ref('subjects') }}
),

snapshots as (
    select distinct snapshot_date from spine
),

{%- set far_off = "cast('9999-12-31' as date)" %}

-- Versions that agree in all that matters here are one.
completed_sessions as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        outcome_known_at,
        min(visible_from) as visible_from,
        max(coalesce(visible_until, {{ far_off }})) as visible_until,
        sum({{ dbt.datediff('visible_from', 'coalesce(visible_until, ' ~ far_off ~ ')', 'day') }}) as visible_days
    from session_outcomes
    group by session_id, customer_id, tutor_id, subject, resolved_at, outcome_known_at
),

-- Most customers' sessions become visible in their order and stay so: a snapshot sees the first so many of one line.
-- Where a session vanished, changed or came out of turn, each snapshot gets a line of its own.
unsteady_customers as (
    select distinct customer_id
    from (
        select
            *,
            lag(visible_from) over (
                partition by customer_id
                order by outcome_known_at, session_id
            ) as previous_visible_from
        from completed_sessions
    ) as in_order
    where
        visible_until < {{ far_off }}
        or visible_days < {{ dbt.datediff('visible_from', 'visible_until', 'day') }}
        or visible_from < previous_visible_from
),

spine_lines as (
    select
        spine.customer_id,
        spine.snapshot_date,
        case
            when unsteady_customers.customer_id is not null then spine.snapshot_date else {{ far_off }}
        end as line_date
    from spine
    left join unsteady_customers
        on spine.customer_id = unsteady_customers.customer_id
),

line_sessions as (
    select
        customer_id,
        {{ far_off }} as line_date,
        session_id,
        tutor_id,
        subject,
        resolved_at,
        outcome_known_at,
        visible_from
    from completed_sessions
    where
        customer_id in (select customer_id from spine)
        and customer_id not in (select customer_id from unsteady_customers)
    union all
    select
        spine_lines.customer_id,
        spine_lines.line_date,
        session_outcomes.session_id,
        session_outcomes.tutor_id,
        session_outcomes.subject,
        session_outcomes.resolved_at,
        session_outcomes.outcome_known_at,
        session_outcomes.visible_from
    from spine_lines
    inner join session_outcomes
        on
            spine_lines.customer_id = session_outcomes.customer_id
            and {{ is_visible_at('spine_lines.snapshot_date', 'session_outcomes') }}
    where spine_lines.line_date < {{ far_off }}
),

-- In the order in which the warehouse came to know of them, with how many of the same subject there were by then
numbered as (
    select
        *,
        row_number() over so_far as position,
        lag(tutor_id) over so_far as previous_tutor_id,
        row_number() over (
            partition by customer_id, line_date, subject
            order by outcome_known_at, session_id
        ) as sessions_of_subject
    from line_sessions
    window so_far as (
        partition by customer_id, line_date
        order by outcome_known_at, session_id
    )
),

-- The most frequent subject so far, tie to the one seen last: that of the session with the greatest count and position
{%- set million = 1000000 %}
ordered as (
    select
        *,
        mod(
            max(sessions_of_subject * {{ million }} + position) over (
                partition by customer_id, line_date
                order by position
                rows between unbounded preceding and current row
            ),
            {{ million }}
        ) as primary_subject_position
    from numbered
),

-- How many sessions of its line each snapshot sees
counted as (
    select
        customer_id,
        line_date,
        snapshot_date,
        session_count
    from (
        select
            customer_id,
            line_date,
            snapshot_date,
            max(position) over (
                partition by customer_id, line_date
                order by seen_on, is_snapshot
                rows between unbounded preceding and current row
            ) as session_count
        from (
            select
                customer_id,
                line_date,
                visible_from as seen_on,
                0 as is_snapshot,
                cast(null as date) as snapshot_date,
                position
            from ordered
            union all
            select
                customer_id,
                line_date,
                snapshot_date as seen_on,
                1 as is_snapshot,
                snapshot_date,
                cast(null as bigint) as position
            from spine_lines
        ) as time_line
    ) as running
    where
        snapshot_date is not null
        and session_count is not null
),

window_days as (
    {%- for day in range(1, window_days()[-1] + 1) %}
    select
        snapshot_date,
        {{ days_from('snapshot_date', -day) }} as event_date
    from snapshots
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

tutor_switches as (
    select
        counted.customer_id,
        counted.snapshot_date,
        count(*) as switches
    from ordered
    inner join window_days
        on cast(ordered.resolved_at as date) = window_days.event_date
    inner join counted
        on
            ordered.customer_id = counted.customer_id
            and ordered.line_date = counted.line_date
            and window_days.snapshot_date = counted.snapshot_date
    where
        ordered.position > 1
        and ordered.position <= counted.session_count
        and ordered.tutor_id is distinct from ordered.previous_tutor_id
    group by counted.customer_id, counted.snapshot_date
),

-- The primary tutor: the most frequent one of the last 20 sessions, tie to the one seen last
recent_sessions as (
    {%- for age in range(20) %}
    select
        customer_id,
        line_date,
        session_count,
        session_count - {{ age }} as position
    from counted
    where session_count > {{ age }}
    {{ 'union' if not loop.last }}
    {%- endfor %}
),

recent_tutors as (
    select
        recent_sessions.customer_id,
        recent_sessions.line_date,
        recent_sessions.session_count,
        ordered.tutor_id,
        count(*) as sessions,
        max(ordered.position) as last_position
    from recent_sessions
    inner join ordered
        on
            recent_sessions.customer_id = ordered.customer_id
            and recent_sessions.line_date = ordered.line_date
            and recent_sessions.position = ordered.position
    group by
        recent_sessions.customer_id,
        recent_sessions.line_date,
        recent_sessions.session_count,
        ordered.tutor_id
),

primary_tutors as (
    select
        customer_id,
        line_date,
        session_count,
        tutor_id,
        cast(sessions as double) / least(session_count, 20) as consistency
    from (
        select
            *,
            row_number() over (
                partition by customer_id, line_date, session_count
                order by sessions desc, last_position desc
            ) as preference
        from recent_tutors
    ) as ranked
    where preference = 1
),

primary_subjects as (
    select
        ordered.customer_id,
        ordered.line_date,
        ordered.position as session_count,
        of_subject.subject
    from ordered
    inner join ordered as of_subject
        on
            ordered.customer_id = of_subject.customer_id
            and ordered.line_date = of_subject.line_date
            and ordered.primary_subject_position = of_subject.position
),

first_sessions as (
    select
        counted.customer_id,
        counted.snapshot_date,
        max(case when ratings.rating >= {{ var('success_rating') }} then 1 else 0 end) as was_success
    from counted
    inner join ordered
        on
            counted.customer_id = ordered.customer_id
            and counted.line_date = ordered.line_date
            and ordered.position = 1
    inner join ratings
        on
            ordered.session_id = ratings.session_id
            and {{ is_visible_at('counted.snapshot_date', 'ratings') }}
    group by counted.customer_id, counted.snapshot_date
),

-- The next session stands in for the primary tutor and subject of customers without a completed session.
next_sessions as (
    select
        customer_id,
        snapshot_date,
        tutor_id,
        subject
    from (
        select
            spine.customer_id,
            spine.snapshot_date,
            session_versions.tutor_id,
            session_versions.subject,
            row_number() over (
                partition by spine.customer_id, spine.snapshot_date
                order by session_versions.scheduled_at, session_versions.session_id
            ) as preference
        from spine
        inner join session_versions
            on
                spine.customer_id = session_versions.customer_id
                and {{ is_visible_at('spine.snapshot_date', 'session_versions') }}
        where
            session_versions.scheduled_at >= spine.snapshot_date
            and (session_versions.status = 'scheduled' or session_versions.resolved_at >= spine.snapshot_date)
    ) as ranked
    where preference = 1
),

-- All ratings of a tutor, by any customer
tutor_ratings as (
    select
        ratings.tutor_id,
        snapshots.snapshot_date,
        sum(ratings.rating) as rating_stars,
        count(*) as ratings
    from ratings
    inner join snapshots
        on {{ is_visible_at('snapshots.snapshot_date', 'ratings') }}
    group by ratings.tutor_id, snapshots.snapshot_date
),

chosen as (
    select
        spine.customer_id,
        spine.snapshot_date,
        primary_tutors.consistency,
        coalesce(tutor_switches.switches, 0) as tutor_switches,
        coalesce(first_sessions.was_success, 0) as first_session_was_success,
        coalesce(primary_subjects.subject, next_sessions.subject) as subject,
        case
            when primary_tutors.consistency is not null then primary_tutors.tutor_id
            else next_sessions.tutor_id
        end as tutor_id
    from spine
    left join counted
        on
            spine.customer_id = counted.customer_id
            and spine.snapshot_date = counted.snapshot_date
    left join primary_tutors
        on
            counted.customer_id = primary_tutors.customer_id
            and counted.line_date = primary_tutors.line_date
            and counted.session_count = primary_tutors.session_count
    left join primary_subjects
        on
            counted.customer_id = primary_subjects.customer_id
            and counted.line_date = primary_subjects.line_date
            and counted.session_count = primary_subjects.session_count
    left join tutor_switches
        on
            spine.customer_id = tutor_switches.customer_id
            and spine.snapshot_date = tutor_switches.snapshot_date
    left join first_sessions
        on
            spine.customer_id = first_sessions.customer_id
            and spine.snapshot_date = first_sessions.snapshot_date
    left join next_sessions
        on
            spine.customer_id = next_sessions.customer_id
            and spine.snapshot_date = next_sessions.snapshot_date
),

final as (
    select
        chosen.customer_id,
        chosen.snapshot_date,
        chosen.tutor_id as primary_tutor_id,
        coalesce(subjects.code, -1) as primary_subject,
        coalesce(chosen.consistency, 0.0) as tutor_consistency_score,
        coalesce(
            cast(tutor_ratings.rating_stars as double) / tutor_ratings.ratings, {{ var('neutral_rating') }}
        ) as primary_tutor_rating,
        chosen.tutor_switches,
        chosen.first_session_was_success
    from chosen
    left join subjects
        on chosen.subject = subjects.subject
    left join tutor_ratings
        on
            chosen.tutor_id = tutor_ratings.tutor_id
            and chosen.snapshot_date = tutor_ratings.snapshot_date
)

select * from final
