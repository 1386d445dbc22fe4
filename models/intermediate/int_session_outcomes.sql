{{ config(materialized='view') }}
with session_versions as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        status,
        resolved_at,
        in_force_from,
        in_force_until,
        recorded_in,
        replaced_in,
        written_in
    from {{ ref('base_sessions') }}
    where {{ is_version() }}
),

final as (
    select
        session_id,
        customer_id,
        tutor_id,
        subject,
        status,
        resolved_at,
        {{ visible_from('resolved_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in
    from session_versions
    where
        status <> 'scheduled'
        and {{ is_ever_visible('resolved_at') }}
)

select * from final
