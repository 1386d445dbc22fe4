{{ config(
    pre_hook="{{ find_known_records('raw_payments') }}",
    post_hook="{{ note_files_read('raw_payments') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_payments') | join(', ') }}
    from {{ source('raw', 'raw_payments') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        arrived_from,
        first_signed_up_at
    from {{ ref('base_customer_arrivals') }}
),

{{ known_records('raw_payments') }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_payments') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        arrivals.arrived_from,
        {{ rejection_reason('raw_payments') }}
            as rejection_reason
    from delivered
    left join arrivals
        on delivered.customer_id = arrivals.arrived_customer_id
),

{{ recorded_versions('raw_payments') }}

select * from final
