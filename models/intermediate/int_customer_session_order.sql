{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set missing = missing_snapshots() %}
{%- set last_run = last_run_before_missing(this, missing) %}
with in_scope as (
    select
        customer_id,
        customer_key,
        snapshot_date
    from {{ ref('int_customers_in_scope') }}
    where snapshot_date in ({{ missing }})
),

snapshots as (
    {{ missing }}
),

{%- if last_run %}

{%- set before = as_date(last_run.snapshot_date) %}

-- A night finds the order anew where something about it is new since the last snapshot; all others keep what they had.
known as (
    select
        customer_key,
        primary_tutor_id,
        primary_subject,
        tutor_consistency_score,
        tutor_switches,
        first_session_was_success
    from {{ this }}
    where snapshot_date = {{ before }}
),

-- Whose line of sessions has a place that is new since, or that a snapshot sees for the first time since; or begins
-- since
changed_customers as (
    select customer_key from {{ ref('int_session_lines') }}
    where recorded_in > {{ last_run.recorded_in }}
    union
    select customer_key from {{ ref('int_session_lines') }}
    where visible_from > {{ before }}
    union
    select customer_key from {{ ref('int_session_lines') }}
    where line_from > {{ before }}
),

new_ratings as (
    select session_key from {{ ref('int_rating_changes') }}
    where recorded_in > {{ last_run.recorded_in }}
    union
    select session_key from {{ ref('int_rating_changes') }}
    where changed_on > {{ before }}
),

-- Who may have another first session since, or another rating of it
customers_with_news_of_the_first as (
    select customer_key from {{ ref('int_session_lines') }}
    where
        position <= 1
        and (
            recorded_in > {{ last_run.recorded_in }}
            or visible_from > {{ before }}
            or line_from > {{ before }}
        )
    union
    select customer_key from {{ ref('int_session_lines') }}
    where
        position <= 1
        and first_session_key in (select new_ratings.session_key from new_ratings)
),

same_first_sessions as (
    select
        customer_key,
        first_session_was_success
    from known
    where customer_key not in (select news.customer_key from customers_with_news_of_the_first as news)
),

first_session_spine as (
    select
        customer_key,
        snapshot_date
    from in_scope
    where customer_key not in (select same_first_sessions.customer_key from same_first_sessions)
),

-- The switches of the last snapshot's window and since, and the days that the window has left behind since
recent_switches as (
    select
        customer_key,
        line,
        position,
        resolved_at
    from {{ ref('int_session_lines') }}
    where
        is_switch
        and resolved_at >= {{ days_from(before, -window_days()[-1]) }}
),

days_left_behind as (
    select switches.customer_key
    from recent_switches as switches
    cross join (select max(snapshot_date) as snapshot_date from snapshots) as newest
    where switches.resolved_at < {{ days_from('newest.snapshot_date', -window_days()[-1]) }}
),

unchanged as (
    select known.*
    from known
    where
        -- Without sessions the next one decides, and that is another one each day.
        tutor_consistency_score > 0
        and customer_key not in (select changed_customers.customer_key from changed_customers)
        and (
            tutor_switches = 0
            or customer_key not in (select days_left_behind.customer_key from days_left_behind)
        )
),

spine as (
    select
        customer_id,
        customer_key,
        snapshot_date
    from in_scope
    where customer_key not in (select unchanged.customer_key from unchanged)
),
{%- else %}

recent_switches as (
    select
        line,
        position,
        resolved_at
    from {{ ref('int_session_lines') }}
    where is_switch
),

spine as (
    select
        customer_id,
        customer_key,
        snapshot_date
    from in_scope
),
{%- endif %}

subjects as (
    select
        subject,
        code
    from {{ ref('subjects') }}
),

{%- set chosen_tutor %}
case when chosen.consistency is not null then chosen.tutor_id else next_sessions.tutor_id end
{%- endset %}
{%- set recent = 20 %}

-- The line by which a snapshot sees a customer's sessions
spine_lines as (
    select
        spine.customer_key,
        spine.snapshot_date,
        max(lines.line) as line
    from spine
    inner join {{ ref('int_session_lines') }} as lines
        on
            spine.customer_key = lines.customer_key
            and spine.snapshot_date >= lines.line_from
    where lines.position <= 1
    group by spine.customer_key, spine.snapshot_date
),

{%- if last_run %}

-- A night has few snapshots; each adds up what it sees: the sessions of its line, and all ratings of a tutor.
seen_counts as (
    select
        spine_lines.customer_key,
        spine_lines.snapshot_date,
        spine_lines.line,
        max(lines.position) as session_count
    from spine_lines
    inner join {{ ref('int_session_lines') }} as lines
        on
            spine_lines.line = lines.line
            and spine_lines.snapshot_date >= lines.visible_from
    where lines.position > 0
    group by spine_lines.customer_key, spine_lines.snapshot_date, spine_lines.line
),

seen_ratings as (
    select
        rating_changes.tutor_id,
        snapshots.snapshot_date,
        sum(rating_changes.rating_stars) as rating_stars,
        sum(rating_changes.ratings) as ratings
    from {{ ref('int_rating_changes') }} as rating_changes
    inner join snapshots
        on rating_changes.changed_on <= snapshots.snapshot_date
    group by rating_changes.tutor_id, snapshots.snapshot_date
),
{%- else %}

-- A history has many snapshots; what is new to one is added to what the one before saw.
first_snapshots as (
    select
        days.visible_from,
        min(snapshots.snapshot_date) as snapshot_date
    from (
        select distinct visible_from from {{ ref('int_session_lines') }}
        union
        select distinct changed_on from {{ ref('int_rating_changes') }}
    ) as days
    inner join snapshots
        on days.visible_from <= snapshots.snapshot_date
    group by days.visible_from
),

seen_counts as (
    select
        customer_key,
        snapshot_date,
        line,
        session_count
    from (
        select
            customer_key,
            snapshot_date,
            line,
            max(position) over (
                partition by line
                order by snapshot_date, is_snapshot
                rows between unbounded preceding and current row
            ) as session_count,
            is_snapshot
        from (
            select
                null as customer_key,
                first_snapshots.snapshot_date,
                lines.line,
                0 as is_snapshot,
                max(lines.position) as position
            from {{ ref('int_session_lines') }} as lines
            inner join first_snapshots
                on lines.visible_from = first_snapshots.visible_from
            group by first_snapshots.snapshot_date, lines.line
            union all
            select
                customer_key,
                snapshot_date,
                line,
                1 as is_snapshot,
                cast(null as bigint) as position
            from spine_lines
        ) as time_line
    ) as running
    where is_snapshot = 1
),

rating_steps as (
    select
        rating_changes.tutor_id,
        first_snapshots.snapshot_date,
        sum(rating_changes.rating_stars) as rating_stars,
        sum(rating_changes.ratings) as ratings
    from {{ ref('int_rating_changes') }} as rating_changes
    inner join first_snapshots
        on rating_changes.changed_on = first_snapshots.visible_from
    group by rating_changes.tutor_id, first_snapshots.snapshot_date
),

rated_tutors as (
    select distinct tutor_id from rating_steps
),

seen_ratings as (
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
),
{%- endif %}

-- How many sessions of its line each snapshot sees
counted as (
    select
        customer_key,
        snapshot_date,
        line,
        session_count,
        {{ session_place('line', 'session_count') }} as last_place
    from seen_counts
    where session_count is not null
),

window_days as (
    {{ days_of_windows('snapshots') }}
),

tutor_switches as (
    select
        counted.customer_key,
        counted.snapshot_date,
        count(*) as switches
    from recent_switches as lines
    inner join window_days
        on cast(lines.resolved_at as date) = window_days.event_date
    inner join counted
        on
            lines.line = counted.line
            and window_days.snapshot_date = counted.snapshot_date
    where lines.position <= counted.session_count
    group by counted.customer_key, counted.snapshot_date
),

{%- if last_run %}

recent_places as (
    select
        line,
        min(session_count) - {{ recent }} as after_position,
        max(session_count) as last_position
    from counted
    group by line
),
{%- endif %}

-- Line and position make one number, a session's place, and line and run another.
ordered as (
    select
        lines.line,
        lines.tutor_id,
        {{ code_of_greatest_subject('lines.greatest_subject') }} as primary_subject,
        {{ session_place('lines.line', 'lines.position') }} as place,
        {{ session_place('lines.line', 'lines.run') }} as tutor_run
    from {{ ref('int_session_lines') }} as lines
    {%- if last_run %}
    inner join recent_places
        on
            lines.line = recent_places.line
            and lines.position > recent_places.after_position
            and lines.position <= recent_places.last_position
    {%- endif %}
    where lines.position > 0
),

-- The primary tutor: the most frequent one of the last 20 sessions, tie to the one seen last
seen_sessions as (
    select
        last_seen.place as last_place,
        first_recent.place as first_place,
        last_seen.tutor_run as last_run,
        first_recent.tutor_run as first_run,
        counts.session_count,
        last_seen.primary_subject
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

recent_numbers as (
    {{ numbers_up_to(recent) }}
),

recent_runs as (
    select
        seen_sessions.last_place,
        seen_sessions.first_place,
        seen_sessions.last_run - numbers.generated_number + 1 as tutor_run
    from seen_sessions
    cross join recent_numbers as numbers
    where seen_sessions.last_run - numbers.generated_number + 1 >= seen_sessions.first_run
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
        seen_sessions.primary_subject
    from seen_sessions
    inner join most_frequent_tutors
        on seen_sessions.last_place = most_frequent_tutors.last_place
    inner join ordered as of_tutor
        on
            most_frequent_tutors.last_place - {{ recent }} + mod(most_frequent_tutors.greatest_rank, {{ million() }})
            = of_tutor.place
),

{%- set first_session_spine = 'first_session_spine' if last_run else 'spine' %}

line_beginnings as (
    select
        customer_key,
        line,
        line_from,
        position,
        visible_from,
        first_session_key
    from {{ ref('int_session_lines') }}
    where
        position <= 1
        {%- if last_run %}
        and customer_key in (select first_session_spine.customer_key from first_session_spine)
        {%- endif %}
),

first_places as (
    select
        seen_lines.customer_key,
        seen_lines.snapshot_date,
        line_beginnings.first_session_key
    from (
        select
            spine.customer_key,
            spine.snapshot_date,
            max(lines_begun.line) as line
        from {{ first_session_spine }} as spine
        inner join line_beginnings as lines_begun
            on
                spine.customer_key = lines_begun.customer_key
                and spine.snapshot_date >= lines_begun.line_from
        group by spine.customer_key, spine.snapshot_date
    ) as seen_lines
    inner join line_beginnings
        on
            seen_lines.line = line_beginnings.line
            and seen_lines.snapshot_date >= line_beginnings.visible_from
    where line_beginnings.position = 1
),

-- At most one rating of a session is seen at a time, so what changed so far adds up to it. The join is by the session
-- alone, because DuckDB sorts out the ratings of others while it reads them by a single number only; the session may
-- have been another customer's before.
first_sessions as (
    select
        customer_key,
        snapshot_date,
        case when rating_stars >= {{ var('success_rating') }} then 1 else 0 end as was_success
    from (
        select
            first_places.customer_key,
            first_places.snapshot_date,
            sum(case
                when first_places.customer_key = rating_changes.customer_key then rating_changes.rating_stars
            end) as rating_stars
        from first_places
        inner join {{ ref('int_rating_changes') }} as rating_changes
            on
                first_places.first_session_key = rating_changes.session_key
                and first_places.snapshot_date >= rating_changes.changed_on
        group by first_places.customer_key, first_places.snapshot_date
    ) as ratings
),

chosen as (
    select
        spine.customer_id,
        spine.customer_key,
        spine.snapshot_date,
        primaries.consistency,
        primaries.tutor_id,
        primaries.primary_subject
    from spine
    left join counted
        on
            spine.customer_key = counted.customer_key
            and spine.snapshot_date = counted.snapshot_date
    left join primaries
        on counted.last_place = primaries.last_place
),

-- The next session stands in for the primary tutor and subject of customers without a completed session.
without_primaries as (
    select
        customer_id,
        snapshot_date
    from chosen
    where consistency is null
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
    where
        customer_id in (select without_primaries.customer_id from without_primaries)
        and {{ is_ever_visible('booked_at') }}
        {%- if last_run %}
        and scheduled_at >= {{ before }}
        {%- endif %}
),

next_sessions as (
    select
        customer_id,
        snapshot_date,
        tutor_id,
        subject
    from (
        select
            without_primaries.customer_id,
            without_primaries.snapshot_date,
            session_versions.tutor_id,
            session_versions.subject,
            row_number() over (
                partition by without_primaries.customer_id, without_primaries.snapshot_date
                order by session_versions.scheduled_at, session_versions.session_id
            ) as preference
        from without_primaries
        inner join session_versions
            on
                without_primaries.customer_id = session_versions.customer_id
                and {{ is_visible_at('without_primaries.snapshot_date', 'session_versions') }}
        where
            session_versions.scheduled_at >= without_primaries.snapshot_date
            and (
                session_versions.status = 'scheduled'
                or session_versions.resolved_at >= without_primaries.snapshot_date
            )
    ) as ranked
    where preference = 1
),

-- All ratings of a tutor, by any customer
tutor_ratings as (
    select
        tutor_id,
        snapshot_date,
        rating_stars,
        ratings
    from seen_ratings
    where ratings > 0
),

found as (
    select
        chosen.customer_key,
        chosen.snapshot_date,
        {{ chosen_tutor }} as primary_tutor_id,
        coalesce(chosen.primary_subject, subjects.code, -1) as primary_subject,
        coalesce(chosen.consistency, 0.0) as tutor_consistency_score,
        coalesce(tutor_switches.switches, 0) as tutor_switches
    from chosen
    left join next_sessions
        on
            chosen.customer_id = next_sessions.customer_id
            and chosen.snapshot_date = next_sessions.snapshot_date
    left join tutor_switches
        on
            chosen.customer_key = tutor_switches.customer_key
            and chosen.snapshot_date = tutor_switches.snapshot_date
    left join subjects
        on next_sessions.subject = subjects.subject
    {%- if last_run %}
    union all
    select
        in_scope.customer_key,
        in_scope.snapshot_date,
        unchanged.primary_tutor_id,
        unchanged.primary_subject,
        unchanged.tutor_consistency_score,
        unchanged.tutor_switches
    from in_scope
    inner join unchanged
        on in_scope.customer_key = unchanged.customer_key
    {%- endif %}
),

final as (
    select
        found.customer_key,
        found.snapshot_date,
        found.primary_tutor_id,
        found.primary_subject,
        found.tutor_consistency_score,
        coalesce(
            cast(tutor_ratings.rating_stars as double) / tutor_ratings.ratings, {{ var('neutral_rating') }}
        ) as primary_tutor_rating,
        found.tutor_switches,
        coalesce(
            first_sessions.was_success,
            {%- if last_run %}
            same_first_sessions.first_session_was_success,
            {%- endif %}
            0
        ) as first_session_was_success,
        {{ this_run() }} as recorded_in
    from found
    left join first_sessions
        on
            found.customer_key = first_sessions.customer_key
            and found.snapshot_date = first_sessions.snapshot_date
    {%- if last_run %}
    left join same_first_sessions
        on found.customer_key = same_first_sessions.customer_key
    {%- endif %}
    left join tutor_ratings
        on
            found.primary_tutor_id = tutor_ratings.tutor_id
            and found.snapshot_date = tutor_ratings.snapshot_date
)

select * from final
{%- if not is_incremental() %}
{#- A night looks for the last snapshot, and reads no others then. #}
order by snapshot_date
{%- endif %}
