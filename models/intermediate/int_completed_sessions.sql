{{ config(materialized='view') }}
with session_versions as (
    select
        session_id,
        customer_id,
        tutor_id,
        status,
        resolved_at,
        rating,
        rated_at,
        in_force_until
    from {{ ref('stg_sessions') }}
),

final as (
    select
        session_id,
        customer_id,
        tutor_id,
        resolved_at as completed_at,
        rating,
        rated_at
    from session_versions
    where
        status = 'completed'
        and in_force_until is null
)

select * from final
