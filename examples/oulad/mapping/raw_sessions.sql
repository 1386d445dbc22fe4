-- A study day with content clicks is a completed session, known the night after. An assessment is an appointment that is
-- delivered again whenever more is known of it: asked, missed, handed in, marked.
with study_days as (
    select
        customer_id || '-' || code_module || '-D' || date as session_id,
        customer_id,
        tutor_id,
        code_module as subject,
        happened_at as booked_at,
        happened_at as scheduled_at,
        'completed' as status,
        happened_at as resolved_at,
        cast(null as integer) as rating,
        cast(null as timestamp) as rated_at,
        happened_at as known_at
    from clicked_days
    where has_content
),

asked as (
    select
        *,
        'scheduled' as status,
        cast(null as timestamp) as resolved_at,
        false as is_marked,
        booked_at as known_at
    from assignments
    where booked_at < coalesce(submitted_at, missed_after(due_at))
),

missed as (
    select
        *,
        'no_show' as status,
        missed_after(due_at) as resolved_at,
        false as is_marked,
        missed_after(due_at) as known_at
    from assignments
    where
        missed_after(due_at) > booked_at
        and (submitted_at is null or submitted_at > missed_after(due_at))
),

-- The test of a computer closes on its date; its results are all entered days after, which is when they are known.
handed_in as (
    select
        *,
        'completed' as status,
        case when is_marked_by_computer then least(submitted_at, due_at) else submitted_at end as resolved_at,
        false as is_marked,
        submitted_at as known_at
    from assignments
    where submitted_at is not null
),

marked as (
    select
        * replace (true as is_marked, marked_after(submitted_at, is_marked_by_computer) as known_at)
    from handed_in
    where rating is not null
),

appointments as (
    select * from asked
    union all by name
    select * from missed
    union all by name
    -- One delivery when both are known in the same night
    select * from handed_in where rating is null or known_at < marked_after(submitted_at, is_marked_by_computer)
    union all by name
    select * from marked
),

sessions as (
    select
        session_id,
        customer_id,
        tutor_id,
        code_module as subject,
        booked_at,
        due_at as scheduled_at,
        status,
        resolved_at,
        case when is_marked then rating end as rating,
        case when is_marked then known_at end as rated_at,
        known_at
    from appointments
    union all by name
    select * from study_days
)

select
    session_id,
    customer_id,
    tutor_id,
    subject,
    booked_at,
    cast(null as timestamp) as confirmed_at,
    scheduled_at,
    status,
    resolved_at,
    cast(null as integer) as duration_minutes,
    rating,
    rated_at,
    known_at as updated_at,
    landed_after(known_at) as loaded_at
from sessions
