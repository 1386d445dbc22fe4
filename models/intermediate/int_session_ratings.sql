{{ config(materialized='view') }}
with session_versions as (
    select
        session_id,
        customer_id,
        tutor_id,
        rating,
        rated_at,
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
        rating,
        rated_at,
        {{ visible_from('rated_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in
    from session_versions
    where
        rating is not null
        and {{ is_ever_visible('rated_at') }}
)

select * from final
