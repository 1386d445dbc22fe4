{{ config(unique_key=['session_id'], post_hook="{{ note_files_read('raw_sessions') }}") }}
with source as (
    select
        {{ raw_column_names('raw_sessions') | join(', ') }}
    from {{ source('raw', 'raw_sessions') }}
),

arrivals as (
    select
        customer_id as arrived_customer_id,
        arrived_from,
        first_signed_up_at,
        changed_in
    from {{ ref('base_customer_arrivals') }}
),

delivered as (
    {{ rows_to_judge('raw_sessions') }}
),

judged as (
    select
        delivered.*,
        arrivals.arrived_from,
        {{ rejection_reason('raw_sessions', subjects=ref('subjects')) }}
            as rejection_reason
    from delivered
    left join arrivals
        on delivered.customer_id = arrivals.arrived_customer_id
),

deliveries as (
    {{ distinct_deliveries('raw_sessions', 'judged') }}
),

clocked as (
    select
        *,
        case
            when rejection_reason is null and not is_repeat
                then greatest({{ first_midnight_delivered('loaded_at') }}, arrived_from)
        end as in_force_from
    from deliveries
),

final as (
    select
        {{ raw_column_names('raw_sessions') | join(', ') }},
        rejection_reason,
        is_repeat,
        {{ outcome_known_at() }} as outcome_known_at,
        in_force_from,
        {{ in_force_until('raw_sessions') }} as in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in
    from clocked
)

select * from final
