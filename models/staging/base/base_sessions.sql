{#- int_session_lines takes the new records of a completed session for all that was said of it. -#}
{{ config(
    pre_hook="{{ find_known_records('raw_sessions', judged_whole=\"status = 'completed'\") }}",
    post_hook="{{ note_files_read('raw_sessions') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_sessions') | join(', ') }}
    from {{ source('raw', 'raw_sessions') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        arrived_from,
        first_signed_up_at
    from {{ ref('base_customer_arrivals') }}
),

{{ known_records('raw_sessions') }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_sessions') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        arrivals.arrived_from,
        {{ rejection_reason('raw_sessions', subjects=ref('subjects')) }}
            as rejection_reason
    from delivered
    left join arrivals
        on delivered.customer_id = arrivals.arrived_customer_id
),

{{ recorded_versions('raw_sessions') }}

select * from final
