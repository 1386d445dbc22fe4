{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
with spine as (
    select
        customer_id,
        snapshot_date
    from {{ ref('int_customer_sums') }}
    where snapshot_date in ({{ missing_snapshots() }})
),

completed_sessions as (
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

-- Every completed session that a snapshot sees, in the order in which the warehouse came to know of them
visible_sessions as (
    select
        spine.customer_id,
        spine.snapshot_date,
        completed_sessions.session_id,
        completed_sessions.tutor_id,
        completed_sessions.subject,
        completed_sessions.resolved_at,
        row_number() over so_far as position,
        lag(completed_sessions.tutor_id) over so_far as previous_tutor_id,
        count(*) over (partition by spine.customer_id, spine.snapshot_date) as session_count
    from spine
    inner join completed_sessions
        on
            spine.customer_id = completed_sessions.customer_id
            and {{ is_visible_at('spine.snapshot_date', 'completed_sessions') }}
    window so_far as (
        partition by spine.customer_id, spine.snapshot_date
        order by completed_sessions.outcome_known_at, completed_sessions.session_id
    )
),

tutor_switches as (
    select
        customer_id,
        snapshot_date,
        count(*) as switches
    from visible_sessions
    where
        position > 1
        and tutor_id is distinct from previous_tutor_id
        and resolved_at >= {{ days_from('snapshot_date', -window_days()[-1]) }}
    group by customer_id, snapshot_date
),

-- The primary tutor: the most frequent one of the last 20 sessions, tie to the one seen last
recent_tutors as (
    select
        customer_id,
        snapshot_date,
        tutor_id,
        count(*) as sessions,
        max(position) as last_position,
        least(max(session_count), 20) as recent_sessions
    from visible_sessions
    where position > session_count - 20
    group by customer_id, snapshot_date, tutor_id
),

primary_tutors as (
    select
        customer_id,
        snapshot_date,
        tutor_id,
        cast(sessions as double) / recent_sessions as consistency
    from (
        select
            *,
            row_number() over (
                partition by customer_id, snapshot_date
                order by sessions desc, last_position desc
            ) as preference
        from recent_tutors
    ) as ranked
    where preference = 1
),

subject_counts as (
    select
        customer_id,
        snapshot_date,
        subject,
        count(*) as sessions,
        max(position) as last_position
    from visible_sessions
    group by customer_id, snapshot_date, subject
),

primary_subjects as (
    select
        customer_id,
        snapshot_date,
        subject
    from (
        select
            *,
            row_number() over (
                partition by customer_id, snapshot_date
                order by sessions desc, last_position desc
            ) as preference
        from subject_counts
    ) as ranked
    where preference = 1
),

first_sessions as (
    select
        visible_sessions.customer_id,
        visible_sessions.snapshot_date,
        max(case when ratings.rating >= {{ var('success_rating') }} then 1 else 0 end) as was_success
    from visible_sessions
    left join ratings
        on
            visible_sessions.session_id = ratings.session_id
            and {{ is_visible_at('visible_sessions.snapshot_date', 'ratings') }}
    where visible_sessions.position = 1
    group by visible_sessions.customer_id, visible_sessions.snapshot_date
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
    left join primary_tutors
        on
            spine.customer_id = primary_tutors.customer_id
            and spine.snapshot_date = primary_tutors.snapshot_date
    left join primary_subjects
        on
            spine.customer_id = primary_subjects.customer_id
            and spine.snapshot_date = primary_subjects.snapshot_date
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
