{{ config(
    unique_key=['tutor_id', 'subject', 'week_start'],
    post_hook="{{ note_files_read('raw_tutor_availability') }}"
) }}
with source as (
    select
        {{ raw_column_names('raw_tutor_availability') | join(', ') }}
    from {{ source('raw', 'raw_tutor_availability') }}
),

delivered as (
    {{ rows_to_judge('raw_tutor_availability', of_customer=false) }}
),

judged as (
    select
        delivered.*,
        {{ rejection_reason('raw_tutor_availability', of_customer=false, subjects=ref('subjects')) }}
            as rejection_reason
    from delivered
),

deliveries as (
    {{ distinct_deliveries('raw_tutor_availability', 'judged') }}
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
        {{ raw_column_names('raw_tutor_availability') | join(', ') }},
        rejection_reason,
        is_repeat,
        in_force_from,
        {{ in_force_until('raw_tutor_availability') }} as in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in
    from clocked
)

select * from final
