{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set last_run = last_run_held(this) %}
{%- set last_line = greatest_line(this) %}
{%- set version = 'session_id, customer_key, tutor_id, subject, resolved_at, outcome_known_at, visible_from, '
    ~ 'visible_until' %}
{%- set same_session = same_values(['session_id', 'sign'], 'versions', 'interrupted_sessions') %}
-- What is said of sessions now (sign 1), and of the same sessions before (-1)
with session_outcomes as (
    select
        session_id,
        {{ customer_key('customer_id') }} as customer_key,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        visible_until,
        sign
    from (
        {{ news(ref('int_session_outcomes'), last_run) }}
    ) as outcomes
    where status = 'completed'
),

-- The first version that says so. A run records all versions of a session anew, if any.
completions as (
    select
        session_id,
        sign,
        min({{ delivered_at('loaded_at') }}) as first_delivered_at
    from (
        {{ news(ref('base_sessions'), last_run) }}
    ) as records
    where
        {{ is_version() }}
        and status = 'completed'
    group by session_id, sign
),

-- Versions that agree in all that matters here are one
same_outcomes as (
    select
        session_id,
        customer_key,
        tutor_id,
        subject,
        resolved_at,
        sign,
        min(visible_from) as visible_from,
        max(coalesce(visible_until, {{ far_off() }})) as visible_until,
        sum({{ dbt.datediff('visible_from', 'coalesce(visible_until, ' ~ far_off() ~ ')', 'day') }}) as visible_days
    from session_outcomes
    group by session_id, customer_key, tutor_id, subject, resolved_at, sign
),

-- … unless others came between them.
interrupted_sessions as (
    select
        session_id,
        sign
    from same_outcomes
    where visible_days < {{ dbt.datediff('visible_from', 'visible_until', 'day') }}
),

outcomes as (
    select
        session_id,
        customer_key,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        visible_until,
        sign
    from same_outcomes as versions
    where not exists (
        select 1 from interrupted_sessions
        where {{ same_session }}
    )
    union all
    select
        session_id,
        customer_key,
        tutor_id,
        subject,
        resolved_at,
        visible_from,
        coalesce(visible_until, {{ far_off() }}) as visible_until,
        sign
    from session_outcomes as versions
    where exists (
        select 1 from interrupted_sessions
        where {{ same_session }}
    )
),

sayings as (
    select
        outcomes.session_id,
        outcomes.customer_key,
        outcomes.tutor_id,
        outcomes.subject,
        outcomes.resolved_at,
        {{ known_at('outcomes.resolved_at', 'completions.first_delivered_at') }} as outcome_known_at,
        outcomes.visible_from,
        outcomes.visible_until,
        outcomes.sign
    from outcomes
    inner join completions
        on
            outcomes.session_id = completions.session_id
            and outcomes.sign = completions.sign
),

{%- if last_line %}

compared as (
    select
        {{ version }},
        max(case when sign = 1 then 1 else 0 end) as is_said_now,
        max(case when sign = 1 then 0 else 1 end) as was_said_before
    from sayings
    group by {{ version }}
),

touched_versions as (
    select
        *,
        max(was_said_before) over (partition by session_id) as has_a_place
    from compared
),

-- The lines of each customer that were laid out last
known_lines as (
    select
        line,
        line_from,
        customer_key,
        line = max(line) over (partition by customer_key) as is_last_line
    from (
        select
            line,
            line_from,
            customer_key,
            max(case when line_from = {{ long_ago() }} then line end) over (partition by customer_key) as first_line
        from {{ this }}
        where
            position <= 1
            and customer_key in (select touched_versions.customer_key from touched_versions)
    ) as all_lines
    where line >= first_line
),

-- How far the last lines reach, by subject: the last place of a line and subject is the last one that some run laid out.
last_subjects as (
    select
        known_lines.line,
        known_lines.line_from,
        known_lines.customer_key,
        places.subject,
        max(places.position) as position,
        max(places.visible_from) as visible_from,
        max(places.outcome_known_at) as outcome_known_at,
        max(places.sessions_of_subject) as sessions_of_subject,
        max(places.greatest_subject) as greatest_subject,
        max(places.run) as run,
        {{ value_at_greatest('places.tutor_id', 'places.position') }} as tutor_id
    from {{ this }} as places
    inner join known_lines
        on places.line = known_lines.line
    where
        places.is_last_of_subject
        and known_lines.is_last_line
    group by known_lines.line, known_lines.line_from, known_lines.customer_key, places.subject
),

last_places as (
    select
        line,
        line_from,
        customer_key,
        max(position) as position,
        max(visible_from) as all_visible_from,
        max(outcome_known_at) as outcome_known_at,
        max(greatest_subject) as greatest_subject,
        max(run) as run,
        {{ value_at_greatest('tutor_id', 'position') }} as tutor_id
    from last_subjects
    group by line, line_from, customer_key
),

-- A new session goes to the end of its customer's last line, if it is in turn: known after all sessions there, seen
-- by no snapshot that does not see all of them, and there to stay.
new_sessions as (
    select
        new.session_id,
        new.customer_key,
        new.tutor_id,
        new.subject,
        new.resolved_at,
        new.outcome_known_at,
        new.visible_from,
        new.visible_until,
        last_places.line,
        last_places.line_from,
        coalesce(
            new.visible_until = {{ far_off() }}
            and new.visible_from >= last_places.line_from
            and new.visible_from >= last_places.all_visible_from
            and new.visible_from >= coalesce(
                lag(new.visible_from) over (
                    partition by new.customer_key
                    order by new.outcome_known_at, new.session_id
                ),
                new.visible_from
            )
            and new.outcome_known_at > last_places.outcome_known_at,
            false
        ) as is_in_turn
    from touched_versions as new
    left join last_places
        on new.customer_key = last_places.customer_key
    where new.has_a_place = 0
),

-- All lines of a customer are laid out anew where something else is new than that: a session that has its place already
-- was corrected or taken back, or one came out of turn.
customers as (
    select customer_key
    from touched_versions
    where
        has_a_place = 1
        and is_said_now <> was_said_before
    union
    select customer_key
    from new_sessions
    where not is_in_turn
),

sessions_to_lay_out as (
    select {{ version }} from sayings
    where
        sign = 1
        and customer_key in (select customers.customer_key from customers)
    union
    select
        {%- for name in version.split(', ') %}
        places.{{ name }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ this }} as places
    inner join known_lines
        on places.line = known_lines.line
    where
        places.position > 0
        and known_lines.customer_key in (select customers.customer_key from customers)
        and places.session_id not in (select touched_versions.session_id from touched_versions)
),
{%- else %}

customers as (
    select distinct customer_key from sayings
),

sessions_to_lay_out as (
    select {{ version }} from sayings
),
{%- endif %}

-- A customer's sessions form a line in which each snapshot sees the first so many: most become visible in their order
-- and stay so. A new line begins where one vanishes or changes, or comes out of turn.
line_starts as (
    select
        customer_key,
        visible_until as line_from
    from sessions_to_lay_out
    where visible_until < {{ far_off() }}
    union
    select
        customer_key,
        visible_from as line_from
    from (
        select
            customer_key,
            visible_from,
            min(visible_from) over (
                partition by customer_key
                order by outcome_known_at desc, session_id desc
                rows between unbounded preceding and 1 preceding
            ) as later_ones_visible_from
        from sessions_to_lay_out
    ) as in_order
    where visible_from > later_ones_visible_from
    union
    select
        customer_key,
        {{ long_ago() }} as line_from
    from customers
),

lines as (
    select
        {{ last_line or 0 }} + row_number() over (order by customer_key, line_from) as line,
        customer_key,
        line_from,
        lead(line_from, 1, {{ far_off() }}) over (
            partition by customer_key
            order by line_from
        ) as line_until
    from line_starts
),

placed as (
    select
        lines.line,
        lines.line_from,
        {%- for name in version.split(', ') %}
        sessions.{{ name }}{{ ',' if not loop.last }}
        {%- endfor %}
    from lines
    inner join sessions_to_lay_out as sessions
        on
            lines.customer_key = sessions.customer_key
            and lines.line_until > sessions.visible_from
            and lines.line_from < sessions.visible_until
    {%- if last_line %}
    union all
    select
        line,
        line_from,
        {{ version }}
    from new_sessions
    where customer_key not in (select customers.customer_key from customers)
    {%- endif %}
),

-- In the order in which the warehouse came to know of them, with how many of the same subject there were by then
numbered as (
    select
        placed.*,
        row_number() over so_far as new_position,
        lag(placed.tutor_id) over so_far as previous_tutor_id,
        row_number() over so_far_of_subject as new_sessions_of_subject,
        lead(placed.session_id) over so_far_of_subject is null as is_last_of_subject
    from placed
    window
        so_far as (
            partition by placed.line
            order by placed.outcome_known_at, placed.session_id
        ),
        so_far_of_subject as (
            partition by placed.line, placed.subject
            order by placed.outcome_known_at, placed.session_id
        )
),

{%- if last_line %}

-- … after those that were there
continued as (
    select
        numbered.*,
        coalesce(last_places.position, 0) + numbered.new_position as position,
        coalesce(last_subjects.sessions_of_subject, 0) + numbered.new_sessions_of_subject as sessions_of_subject,
        coalesce(last_places.greatest_subject, 0) as greatest_subject_before,
        coalesce(last_places.run, 0) as run_before,
        case
            when numbered.new_position = 1 then last_places.tutor_id else numbered.previous_tutor_id
        end as tutor_id_before
    from numbered
    left join last_places
        on numbered.line = last_places.line
    left join last_subjects
        on
            numbered.line = last_subjects.line
            and numbered.subject is not distinct from last_subjects.subject
),
{%- else %}

continued as (
    select
        numbered.*,
        new_position as position,
        new_sessions_of_subject as sessions_of_subject,
        0 as greatest_subject_before,
        0 as run_before,
        previous_tutor_id as tutor_id_before
    from numbered
),
{%- endif %}

subjects as (
    select
        subject,
        code
    from {{ ref('subjects') }}
),

-- The most frequent subject so far, tie to the one seen last, is that of the session with the greatest count and
-- position; their number takes the subject along. Sessions with the same tutor in a row are one run.
running as (
    select
        continued.*,
        greatest(
            continued.greatest_subject_before,
            max(
                {{ greatest_subject('continued.sessions_of_subject', 'continued.position', 'subjects.code') }}
            ) over so_far
        ) as greatest_subject,
        continued.run_before
        + sum(
            case when continued.tutor_id is distinct from continued.tutor_id_before then 1 else 0 end
        ) over so_far as run
    from ({{ few_rows('continued') }}) as continued
    left join subjects
        on continued.subject = subjects.subject
    window so_far as (
        partition by continued.line
        order by continued.position
        rows between unbounded preceding and current row
    )
),

final as (
    select
        cast(line as bigint) as line,
        line_from,
        case when position = 1 then {{ session_key('session_id') }} end as first_session_key,
        {{ version }},
        cast(position as bigint) as position,
        (position > 1 and tutor_id is distinct from tutor_id_before) as is_switch,
        cast(sessions_of_subject as bigint) as sessions_of_subject,
        cast(greatest_subject as bigint) as greatest_subject,
        cast(run as bigint) as run,
        is_last_of_subject,
        {{ this_run() }} as recorded_in
    from running
    union all
    -- A line without any session: without a row, snapshots would see the line before.
    select
        lines.line,
        lines.line_from,
        null as first_session_key,
        {%- for name in version.split(', ') %}
        {{ 'lines.customer_key' if name == 'customer_key' else 'null as ' ~ name }},
        {%- endfor %}
        0 as position,
        false as is_switch,
        0 as sessions_of_subject,
        0 as greatest_subject,
        0 as run,
        false as is_last_of_subject,
        {{ this_run() }} as recorded_in
    from lines
    where lines.line not in (select placed.line from placed)
)

select * from final
{%- if not is_incremental() %}
{#- Nights look for first and last places of lines, and for switches; they read few others when these lie together. #}
order by
    case
        when position <= 1 or is_last_of_subject then 2
        when is_switch then 1
        else 0
    end,
    line,
    position
{%- endif %}
