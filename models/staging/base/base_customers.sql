{{ config(unique_key=['customer_id'], post_hook="{{ note_files_read('raw_customers') }}") }}
with source as (
    select
        {{ raw_column_names('raw_customers') | join(', ') }}
    from {{ source('raw', 'raw_customers') }}
),

delivered as (
    {{ rows_to_judge('raw_customers', of_customer=false) }}
),

judged as (
    select
        delivered.*,
        {{ rejection_reason('raw_customers', of_customer=false, signed_up_at='signed_up_at') }}
            as rejection_reason
    from delivered
),

deliveries as (
    {{ distinct_deliveries('raw_customers', 'judged') }}
),

clocked as (
    select
        *,
        case
            when rejection_reason is null and not is_repeat
                then {{ first_midnight_delivered('loaded_at') }}
        end as in_force_from
    from deliveries
),

final as (
    select
        {{ raw_column_names('raw_customers') | join(', ') }},
        rejection_reason,
        is_repeat,
        in_force_from,
        {{ in_force_until('raw_customers') }} as in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in
    from clocked
)

select * from final
