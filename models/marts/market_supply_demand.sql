{%- set hours = 'cast(60.0 as double)' -%}
with availability as (
    select
        subject,
        cast(week_start as date) as week_start,
        count(distinct case when available_hours > 0 then tutor_id end) as tutors_available,
        sum(available_hours) as available_hours
    from {{ ref('stg_tutor_availability') }}
    where in_force_until is null
    group by
        subject,
        cast(week_start as date)
),

sessions as (
    select
        subject,
        cast({{ dbt.date_trunc('week', 'scheduled_at') }} as date) as week_start,
        customer_id,
        tutor_id,
        status,
        booked_at,
        confirmed_at,
        duration_minutes
    from {{ ref('stg_sessions') }}
    where in_force_until is null
),

demand as (
    select
        subject,
        week_start,
        count(*) as sessions_requested,
        count(distinct customer_id) as customers,
        count(case when status = 'completed' then 1 end) as sessions_completed,
        count(case when status = 'cancelled_by_customer' then 1 end) as sessions_cancelled_by_customer,
        count(case when status = 'cancelled_by_tutor' then 1 end) as sessions_cancelled_by_tutor,
        count(case when status = 'no_show' then 1 end) as sessions_no_show,
        count(case when status = 'scheduled' then 1 end) as sessions_open,
        count(case when status = 'scheduled' and confirmed_at is null then 1 end) as sessions_unconfirmed,
        count(distinct case when status = 'completed' then tutor_id end) as tutors_teaching,
        sum(case when status = 'completed' then duration_minutes else 0 end) / {{ hours }} as completed_hours,
        avg({{ dbt.datediff('booked_at', 'confirmed_at', 'second') }}) / cast(3600.0 as double)
            as average_confirmation_hours
    from sessions
    group by
        subject,
        week_start
),

weeks as (
    select
        subject,
        week_start
    from availability
    union
    select
        subject,
        week_start
    from demand
),

final as (
    select
        weeks.subject,
        weeks.week_start,
        coalesce(availability.tutors_available, 0) as tutors_available,
        coalesce(availability.available_hours, 0) as available_hours,
        coalesce(demand.customers, 0) as customers,
        coalesce(demand.sessions_requested, 0) as sessions_requested,
        coalesce(demand.sessions_completed, 0) as sessions_completed,
        coalesce(demand.sessions_cancelled_by_customer, 0) as sessions_cancelled_by_customer,
        coalesce(demand.sessions_cancelled_by_tutor, 0) as sessions_cancelled_by_tutor,
        coalesce(demand.sessions_no_show, 0) as sessions_no_show,
        coalesce(demand.sessions_open, 0) as sessions_open,
        coalesce(demand.sessions_unconfirmed, 0) as sessions_unconfirmed,
        coalesce(demand.tutors_teaching, 0) as tutors_teaching,
        coalesce(demand.completed_hours, 0) as completed_hours,
        coalesce(demand.completed_hours, 0) / nullif(availability.available_hours, 0) as utilisation,
        demand.average_confirmation_hours
    from weeks
    left join availability
        on
            weeks.subject = availability.subject
            and weeks.week_start = availability.week_start
    left join demand
        on
            weeks.subject = demand.subject
            and weeks.week_start = demand.week_start
)

select * from final
