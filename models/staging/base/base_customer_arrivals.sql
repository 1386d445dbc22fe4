{{ config(unique_key='customer_id', incremental_strategy='delete+insert') }}
with records as (
    select
        customer_id,
        signed_up_at,
        updated_at,
        loaded_at,
        rejection_reason
    from {{ ref('base_customers') }}
    where
        customer_id is not null
        and replaced_in is null
),

arrivals as (
    select
        customer_id,
        {{ first_midnight_delivered('min(' ~ delivered_at('loaded_at') ~ ')') }}
            as arrived_from
    from records
    group by customer_id
),

-- The signup of a customer's first version that keeps the contract by itself
first_versions as (
    select
        customer_id,
        signed_up_at,
        row_number() over (
            partition by customer_id
            order by loaded_at asc nulls first, updated_at asc nulls first, signed_up_at asc
        ) as age
    from records
    where rejection_reason is null or rejection_reason = 'event_before_signup'
),

final as (
    select
        arrivals.customer_id,
        arrivals.arrived_from,
        first_versions.signed_up_at as first_signed_up_at,
        {{ this_run() }} as changed_in
    from arrivals
    left join first_versions
        on
            arrivals.customer_id = first_versions.customer_id
            and first_versions.age = 1
)

select * from final
{%- if is_incremental() %}
where not exists (
    select 1 from {{ this }} as known
    where
        known.customer_id = final.customer_id
        and known.arrived_from = final.arrived_from
        and known.first_signed_up_at is not distinct from final.first_signed_up_at
)
{%- endif %}
