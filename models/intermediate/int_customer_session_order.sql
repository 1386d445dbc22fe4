{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set last_run = last_run_before_missing(this) %}
-- depends_on: {{ ref('base_sessions') }}
with in_scope as (
    select
        customer_id,
        snapshot_date
    from {{ ref('int_customer_sums') }}
    where snapshot_date in ({{ missing_snapshots() }})
),

snapshots as (
    select distinct snapshot_date from in_scope
),

{%- if last_run %}

{%- set before = "cast('" ~ last_run.snapshot_date ~ "' as date)" %}

-- A night finds the order anew where something about it is new since the last snapshot; all others keep what they had.
known as (
    select
        customer_id,
        primary_tutor_id,
        primary_subject,
        tutor_consistency_score,
        tutor_switches,
        first_session_was_success
    from {{ this }}
    where snapshot_date = {{ before }}
),

-- Whose sessions or ratings have a version that was recorded or replaced since, or that a snapshot sees or no longer sees
-- for the first time since
changed_customers as (
    select customer_id
    from {{ ref('base_sessions') }}
    where
        {{ is_version() }}
        and (status = 'completed' or rating is not null)
        and (
            recorded_in > {{ last_run.recorded_in }}
            or replaced_in > {{ last_run.recorded_in }}
            or in_force_from > {{ before }}
            or in_force_until > {{ before }}
            or resolved_at >= {{ before }}
            or rated_at >= {{ before }}
        )
),

-- The days that the window of switches has left behind since
days_left_behind as (
    select sessions.customer_id
    from {{ ref('base_sessions') }} as sessions
    cross join (select max(snapshot_date) as snapshot_date from snapshots) as newest
    where
        {{ is_current_version() }}
        and sessions.status = 'completed'
        and sessions.resolved_at >= {{ days_from(before, -window_days()[-1]) }}
        and sessions.resolved_at < {{ days_from('newest.snapshot_date', -window_days()[-1]) }}
),

unchanged as (
    select known.*
    from known
    where
        -- Without sessions or subject the next session decides, and that is another one each day.
        tutor_consistency_score > 0
        and primary_subject >= 0
        and customer_id not in (select changed_customers.customer_id from changed_customers)
        and (
            tutor_switches = 0
            or customer_id not in (select days_left_behind.customer_id from days_left_behind)
        )
),

spine as (
    select
        customer_id,
        snapshot_date
    from in_scope
    where customer_id not in (select unchanged.customer_id from unchanged)
),
{%- else %}

spine as (
    select
        customer_id,
        snapshot_date
    from in_scope
),
{%- endif %}

session_outcomes as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        visible_until
    from {{ ref('int_session_outcomes') }}
    where
        status = 'completed'
        {%- if last_run %}
        and customer_id in (select spine.customer_id from spine)
        {%- endif %}
),

-- The first version that says so
completions as (
    select
        session_id,
        min({{ delivered_at('loaded_at') }}) as first_delivered_at
    from {{ ref('stg_sessions') }}
    where
        status = 'completed'
        {%- if last_run %}
        and session_id in (select session_outcomes.session_id from session_outcomes)
        {%- endif %}
    group by session_id
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

{%- set far_off = "cast('9999-12-31' as date)" %}
{%- set chosen_tutor %}
case when chosen.consistency is not null then chosen.tutor_id else next_sessions.tutor_id end
{%- endset %}
{%- set recent = 20 %}
{%- set long_ago = "cast('1900-01-01' as date)" %}

-- Versions that agree in all that matters here are one
same_outcomes as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        min(visible_from) as visible_from,
        max(coalesce(visible_until, {{ far_off }})) as visible_until,
        sum({{ dbt.datediff('visible_from', 'coalesce(visible_until, ' ~ far_off ~ ')', 'day') }}) as visible_days
    from session_outcomes
    group by session_id, customer_id, tutor_id, subject, resolved_at
),

-- … unless others came between them.
interrupted_sessions as (
    select session_id
    from same_outcomes
    where visible_days < {{ dbt.datediff('visible_from', 'visible_until', 'day') }}
),

outcomes as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        visible_until
    from same_outcomes
    where session_id not in (select session_id from interrupted_sessions)
    union all
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        coalesce(visible_until, {{ far_off }}) as visible_until
    from session_outcomes
    where session_id in (select session_id from interrupted_sessions)
),

completed_sessions as (
    select
        outcomes.session_id,
        outcomes.customer_id,
        outcomes.tutor_id,
        outcomes.subject,
        outcomes.resolved_at,
        {{ known_at('outcomes.resolved_at', 'completions.first_delivered_at') }} as outcome_known_at,
        outcomes.visible_from,
        outcomes.visible_until
    from outcomes
    inner join completions
        on outcomes.session_id = completions.session_id
),

-- A customer's sessions form a line in which each snapshot sees the first so many: most become visible in their order
-- and stay so. A new line begins where one vanishes or changes, or comes out of turn.
line_starts as (
    select
        customer_id,
        visible_until as line_from
    from completed_sessions
    where visible_until < {{ far_off }}
    union
    select
        customer_id,
        visible_from as line_from
    from (
        select
            customer_id,
            visible_from,
            min(visible_from) over (
                partition by customer_id
                order by outcome_known_at desc, session_id desc
                rows between unbounded preceding and 1 preceding
            ) as later_ones_visible_from
        from completed_sessions
    ) as in_order
    where visible_from > later_ones_visible_from
),

spine_lines as (
    select
        spine.customer_id,
        spine.snapshot_date,
        coalesce(max(line_starts.line_from), {{ long_ago }}) as line_from
    from spine
    left join line_starts
        on
            spine.customer_id = line_starts.customer_id
            and spine.snapshot_date >= line_starts.line_from
    group by spine.customer_id, spine.snapshot_date
),

lines as (
    select
        customer_id,
        line_from,
        min(snapshot_date) as first_snapshot_date,
        max(snapshot_date) as last_snapshot_date,
        row_number() over (order by customer_id, line_from) as line
    from spine_lines
    group by customer_id, line_from
),

-- In the order in which the warehouse came to know of them, with how many of the same subject there were by then
numbered as (
    select
        lines.line,
        completed_sessions.session_id,
        completed_sessions.tutor_id,
        completed_sessions.subject,
        completed_sessions.resolved_at,
        completed_sessions.visible_from,
        row_number() over so_far as position,
        lag(completed_sessions.tutor_id) over so_far as previous_tutor_id,
        row_number() over (
            partition by lines.line, completed_sessions.subject
            order by completed_sessions.outcome_known_at, completed_sessions.session_id
        ) as sessions_of_subject
    from lines
    inner join completed_sessions
        on
            lines.customer_id = completed_sessions.customer_id
            and lines.last_snapshot_date >= completed_sessions.visible_from
            and lines.first_snapshot_date < completed_sessions.visible_until
    window so_far as (
        partition by lines.line
        order by completed_sessions.outcome_known_at, completed_sessions.session_id
    )
),

-- The most frequent subject so far, tie to the one seen last, is that of the session with the greatest count and
-- position. Sessions with the same tutor in a row are one run.
running as (
    select
        *,
        max({{ one_number('sessions_of_subject', 'position') }}) over so_far as greatest_subject,
        sum(case when tutor_id is distinct from previous_tutor_id then 1 else 0 end) over so_far as run
    from numbered
    window so_far as (
        partition by line
        order by position
        rows between unbounded preceding and current row
    )
),

-- Line and position make one number, a session's place, and line and run another.
ordered as (
    select
        line,
        session_id,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        position,
        (position > 1 and tutor_id is distinct from previous_tutor_id) as is_switch,
        {{ session_place('line', 'position') }} as place,
        {{ session_place('line', 'mod(greatest_subject, ' ~ million() ~ ')') }} as primary_subject_place,
        {{ session_place('line', 'run') }} as tutor_run
    from running
),

-- How many sessions of its line each snapshot sees
counted as (
    select
        customer_id,
        snapshot_date,
        line,
        session_count,
        {{ session_place('line', 'session_count') }} as last_place
    from (
        select
            customer_id,
            snapshot_date,
            line,
            max(position) over (
                partition by line
                order by seen_on, is_snapshot
                rows between unbounded preceding and current row
            ) as session_count
        from (
            select
                cast(null as {{ dbt.type_string() }}) as customer_id,
                cast(null as date) as snapshot_date,
                line,
                visible_from as seen_on,
                0 as is_snapshot,
                position
            from ordered
            union all
            select
                spine_lines.customer_id,
                spine_lines.snapshot_date,
                lines.line,
                spine_lines.snapshot_date as seen_on,
                1 as is_snapshot,
                cast(null as bigint) as position
            from spine_lines
            inner join lines
                on
                    spine_lines.customer_id = lines.customer_id
                    and spine_lines.line_from = lines.line_from
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
            ordered.line = counted.line
            and window_days.snapshot_date = counted.snapshot_date
    where
        ordered.is_switch
        and ordered.place <= counted.last_place
    group by counted.customer_id, counted.snapshot_date
),

-- The primary tutor: the most frequent one of the last 20 sessions, tie to the one seen last
seen_sessions as (
    select
        last_seen.place as last_place,
        first_recent.place as first_place,
        last_seen.tutor_run as last_run,
        first_recent.tutor_run as first_run,
        counts.session_count,
        last_seen.primary_subject_place
    from (
        select distinct
            line,
            last_place,
            session_count
        from counted
    ) as counts
    inner join ordered as last_seen
        on counts.last_place = last_seen.place
    inner join ordered as first_recent
        on greatest(counts.last_place - {{ recent - 1 }}, {{ session_place('counts.line', '1') }}) = first_recent.place
),

recent_runs as (
    {%- for age in range(recent) %}
    select
        last_place,
        first_place,
        last_run - {{ age }} as tutor_run
    from seen_sessions
    where last_run - {{ age }} >= first_run
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

tutor_runs as (
    select
        tutor_run,
        tutor_id,
        min(place) as first_place,
        max(place) as last_place
    from ordered
    group by tutor_run, tutor_id
),

recent_tutors as (
    select
        recent_runs.last_place,
        tutor_runs.tutor_id,
        cast(sum(
            least(tutor_runs.last_place, recent_runs.last_place)
            - greatest(tutor_runs.first_place, recent_runs.first_place)
            + 1
        ) as bigint) as sessions,
        max(least(tutor_runs.last_place, recent_runs.last_place)) as tutor_place
    from recent_runs
    inner join tutor_runs
        on recent_runs.tutor_run = tutor_runs.tutor_run
    group by
        recent_runs.last_place,
        tutor_runs.tutor_id
),

most_frequent_tutors as (
    select
        last_place,
        max(sessions) as sessions,
        max({{ one_number('sessions', 'tutor_place - last_place + ' ~ recent) }}) as greatest_rank
    from recent_tutors
    group by last_place
),

primaries as (
    select
        seen_sessions.last_place,
        cast(most_frequent_tutors.sessions as double) / least(seen_sessions.session_count, {{ recent }}) as consistency,
        of_tutor.tutor_id,
        of_subject.subject
    from seen_sessions
    inner join most_frequent_tutors
        on seen_sessions.last_place = most_frequent_tutors.last_place
    inner join ordered as of_tutor
        on
            most_frequent_tutors.last_place - {{ recent }} + mod(most_frequent_tutors.greatest_rank, {{ million() }})
            = of_tutor.place
    inner join ordered as of_subject
        on seen_sessions.primary_subject_place = of_subject.place
),

first_sessions as (
    select
        counted.customer_id,
        counted.snapshot_date,
        max(case when ratings.rating >= {{ var('success_rating') }} then 1 else 0 end) as was_success
    from counted
    inner join ordered
        on {{ session_place('counted.line', '1') }} = ordered.place
    inner join ratings
        on
            ordered.session_id = ratings.session_id
            and {{ is_visible_at('counted.snapshot_date', 'ratings') }}
    group by counted.customer_id, counted.snapshot_date
),

chosen as (
    select
        spine.customer_id,
        spine.snapshot_date,
        primaries.consistency,
        primaries.tutor_id,
        primaries.subject
    from spine
    left join counted
        on
            spine.customer_id = counted.customer_id
            and spine.snapshot_date = counted.snapshot_date
    left join primaries
        on counted.last_place = primaries.last_place
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
            chosen.customer_id,
            chosen.snapshot_date,
            session_versions.tutor_id,
            session_versions.subject,
            row_number() over (
                partition by chosen.customer_id, chosen.snapshot_date
                order by session_versions.scheduled_at, session_versions.session_id
            ) as preference
        from chosen
        inner join session_versions
            on
                chosen.customer_id = session_versions.customer_id
                and {{ is_visible_at('chosen.snapshot_date', 'session_versions') }}
        where
            (chosen.consistency is null or chosen.subject is null)
            and session_versions.scheduled_at >= chosen.snapshot_date
            and (session_versions.status = 'scheduled' or session_versions.resolved_at >= chosen.snapshot_date)
    ) as ranked
    where preference = 1
),

-- All ratings of a tutor, by any customer
rating_changes as (
    select
        tutor_id,
        visible_from as changed_on,
        rating as rating_stars,
        1 as ratings
    from ratings
    union all
    select
        tutor_id,
        visible_until as changed_on,
        -rating as rating_stars,
        -1 as ratings
    from ratings
    where visible_until is not null
),

-- The first snapshot that sees a change
first_snapshots as (
    select
        change_dates.changed_on,
        min(snapshots.snapshot_date) as snapshot_date
    from (select distinct changed_on from rating_changes) as change_dates
    inner join snapshots
        on change_dates.changed_on <= snapshots.snapshot_date
    group by change_dates.changed_on
),

rating_steps as (
    select
        rating_changes.tutor_id,
        first_snapshots.snapshot_date,
        sum(rating_changes.rating_stars) as rating_stars,
        sum(rating_changes.ratings) as ratings
    from rating_changes
    inner join first_snapshots
        on rating_changes.changed_on = first_snapshots.changed_on
    group by rating_changes.tutor_id, first_snapshots.snapshot_date
),

rated_tutors as (
    select distinct tutor_id from rating_steps
),

tutor_ratings as (
    select
        tutor_id,
        snapshot_date,
        rating_stars,
        ratings
    from (
        select
            rated_tutors.tutor_id,
            snapshots.snapshot_date,
            sum(rating_steps.rating_stars) over so_far as rating_stars,
            sum(rating_steps.ratings) over so_far as ratings
        from rated_tutors
        cross join snapshots
        left join rating_steps
            on
                rated_tutors.tutor_id = rating_steps.tutor_id
                and snapshots.snapshot_date = rating_steps.snapshot_date
        window so_far as (
            partition by rated_tutors.tutor_id
            order by snapshots.snapshot_date
            rows between unbounded preceding and current row
        )
    ) as running
    where ratings > 0
),

found as (
    select
        chosen.customer_id,
        chosen.snapshot_date,
        {{ chosen_tutor }} as primary_tutor_id,
        coalesce(subjects.code, -1) as primary_subject,
        coalesce(chosen.consistency, 0.0) as tutor_consistency_score,
        coalesce(tutor_switches.switches, 0) as tutor_switches,
        coalesce(first_sessions.was_success, 0) as first_session_was_success
    from chosen
    left join next_sessions
        on
            chosen.customer_id = next_sessions.customer_id
            and chosen.snapshot_date = next_sessions.snapshot_date
    left join tutor_switches
        on
            chosen.customer_id = tutor_switches.customer_id
            and chosen.snapshot_date = tutor_switches.snapshot_date
    left join first_sessions
        on
            chosen.customer_id = first_sessions.customer_id
            and chosen.snapshot_date = first_sessions.snapshot_date
    left join subjects
        on coalesce(chosen.subject, next_sessions.subject) = subjects.subject
    {%- if last_run %}
    union all
    select
        in_scope.customer_id,
        in_scope.snapshot_date,
        unchanged.primary_tutor_id,
        unchanged.primary_subject,
        unchanged.tutor_consistency_score,
        unchanged.tutor_switches,
        unchanged.first_session_was_success
    from in_scope
    inner join unchanged
        on in_scope.customer_id = unchanged.customer_id
    {%- endif %}
),

final as (
    select
        found.customer_id,
        found.snapshot_date,
        cast(found.snapshot_date as timestamp) as feature_timestamp,
        found.primary_tutor_id,
        found.primary_subject,
        found.tutor_consistency_score,
        coalesce(
            cast(tutor_ratings.rating_stars as double) / tutor_ratings.ratings, {{ var('neutral_rating') }}
        ) as primary_tutor_rating,
        found.tutor_switches,
        found.first_session_was_success,
        {{ this_run() }} as recorded_in
    from found
    left join tutor_ratings
        on
            found.primary_tutor_id = tutor_ratings.tutor_id
            and found.snapshot_date = tutor_ratings.snapshot_date
)

select * from final
