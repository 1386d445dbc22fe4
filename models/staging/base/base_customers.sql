with source as (
    select
        {{ raw_column_names('raw_customers') | join(', ') }}
    from {{ source('raw', 'raw_customers') }}
),

arrivals as (
    select customer_id as arrived_customer_id
    from {{ ref('base_customer_arrivals') }}
),

judged as (
    select
        source.*,
        {{ rejection_reason('raw_customers', signed_up_at='signed_up_at') }}
            as rejection_reason
    from source
    left join arrivals
        on source.customer_id = arrivals.arrived_customer_id
)

select * from judged
