{{ config(
    pre_hook="{{ find_known_records('raw_customers', of_customer=false) }}",
    post_hook="{{ note_files_read('raw_customers') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_customers') | join(', ') }}
    from {{ source('raw', 'raw_customers') }}
),

{{ known_records('raw_customers', of_customer=false) }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_customers') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        {{ rejection_reason('raw_customers', of_customer=false, signed_up_at='signed_up_at') }}
            as rejection_reason
    from delivered
),

{{ recorded_versions('raw_customers', of_customer=false) }}

select * from final
