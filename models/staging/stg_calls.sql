with versions as (
    {{ accepted_versions('raw_calls', ref('base_calls')) }}
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
        greatest({{ first_midnight_delivered('versions.loaded_at') }}, arrivals.arrived_from) as in_force_from
    from versions
    inner join arrivals
        on versions.customer_id = arrivals.customer_id
),

final as (
    select
        *,
        {{ in_force_until('raw_calls') }} as in_force_until
    from clocked
)

select * from final
