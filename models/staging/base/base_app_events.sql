with source as (
    select
        {{ raw_column_names('raw_app_events') | join(', ') }}
    from {{ source('raw', 'raw_app_events') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        first_signed_up_at
    from {{ ref('base_customer_arrivals') }}
),

judged as (
    select
        source.*,
        {{ rejection_reason('raw_app_events') }}
            as rejection_reason
    from source
    left join arrivals
        on source.customer_id = arrivals.arrived_customer_id
)

select * from judged
