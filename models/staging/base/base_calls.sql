{{ config(
    pre_hook="{{ find_known_records('raw_calls') }}",
    post_hook="{{ note_files_read('raw_calls') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_calls') | join(', ') }}
    from {{ source('raw', 'raw_calls') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        arrived_from,
        first_signed_up_at
    from {{ ref('base_customer_arrivals') }}
),

{{ known_records('raw_calls') }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_calls') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        arrivals.arrived_from,
        {{ rejection_reason('raw_calls') }}
            as rejection_reason
    from delivered
    left join arrivals
        on delivered.customer_id = arrivals.arrived_customer_id
),

{{ recorded_versions('raw_calls') }}

select * from final
