with versions as (
    {{ accepted_versions('raw_sessions', ref('base_sessions')) }}
),

arrivals as (
    select
        customer_id,
        arrived_from
    from {{ ref('base_customer_arrivals') }}
),

clocked as (
    select
        versions.*,
        {{ known_at(
            'versions.resolved_at',
            'min(' ~ delivered_at('versions.loaded_at') ~ ') over (partition by versions.session_id, versions.status)'
        ) }} as outcome_known_at,
        greatest({{ first_midnight_delivered('versions.loaded_at') }}, arrivals.arrived_from) as in_force_from
    from versions
    inner join arrivals
        on versions.customer_id = arrivals.customer_id
),

final as (
    select
        *,
        {{ in_force_until('raw_sessions') }} as in_force_until
    from clocked
)

select * from final
