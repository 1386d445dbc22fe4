{{ config(materialized='view') }}
with session_versions as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        status,
        resolved_at,
        duration_minutes,
        in_force_from,
        in_force_until
    from {{ ref('stg_sessions') }}
),

final as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        status,
        duration_minutes,
        resolved_at,
        {{ visible_from('resolved_at') }} as visible_from,
        in_force_until as visible_until
    from session_versions
    where
        status <> 'scheduled'
        and {{ is_ever_visible('resolved_at') }}
)

select * from final
