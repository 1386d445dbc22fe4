{{ config(
    pre_hook="{{ find_known_records('raw_app_events') }}",
    post_hook="{{ note_files_read('raw_app_events') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_app_events') | join(', ') }}
    from {{ source('raw', 'raw_app_events') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        arrived_from,
        first_signed_up_at
    from {{ ref('base_customer_arrivals') }}
),

{{ known_records('raw_app_events') }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_app_events') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        arrivals.arrived_from,
        {{ rejection_reason('raw_app_events') }}
            as rejection_reason
    from delivered
    left join arrivals
        on delivered.customer_id = arrivals.arrived_customer_id
),

{{ recorded_versions('raw_app_events') }}

select * from final
