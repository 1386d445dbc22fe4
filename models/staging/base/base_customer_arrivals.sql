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
        {%- if is_incremental() %}
        and key_number in (
            select key_number from {{ ref('base_customers') }}
            where recorded_in > {{ last_recorded_run(this, 'changed_in') }}
        )
        {%- endif %}
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
        {{ customer_key('arrivals.customer_id') }} as customer_key,
        arrivals.arrived_from,
        first_versions.signed_up_at as first_signed_up_at,
        {%- if is_incremental() %}
        coalesce(known.arrived_in, {{ this_run() }}) as arrived_in,
        {%- else %}
        {{ this_run() }} as arrived_in,
        {%- endif %}
        {{ this_run() }} as changed_in
    from arrivals
    left join first_versions
        on
            arrivals.customer_id = first_versions.customer_id
            and first_versions.age = 1
    {%- if is_incremental() %}
    left join {{ this }} as known
        on arrivals.customer_id = known.customer_id
    where
        known.customer_id is null
        or known.arrived_from <> arrivals.arrived_from
        or known.first_signed_up_at is distinct from first_versions.signed_up_at
    {%- endif %}
)

select * from final
