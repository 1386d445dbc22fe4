with source as (
    select
        {{ raw_column_names('raw_customers') | join(', ') }}
    from {{ source('raw', 'raw_customers') }}
),

judged as (
    select
        *,
        {{ rejection_reason('raw_customers', of_customer=false) }}
            as rejection_reason
    from source
),

arrivals as (
    select
        customer_id,
        {{ first_midnight_delivered('min(' ~ delivered_at('loaded_at') ~ ')') }}
            as arrived_from
    from judged
    where customer_id is not null
    group by customer_id
),

first_versions as (
    select
        customer_id,
        signed_up_at,
        row_number() over (
            partition by customer_id
            order by loaded_at asc nulls first, updated_at asc nulls first, signed_up_at asc
        ) as age
    from judged
    where rejection_reason is null
),

final as (
    select
        arrivals.customer_id,
        arrivals.arrived_from,
        first_versions.signed_up_at as first_signed_up_at
    from arrivals
    left join first_versions
        on
            arrivals.customer_id = first_versions.customer_id
            and first_versions.age = 1
)

select * from final
