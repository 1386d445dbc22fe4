{{ config(unique_key=['tutor_id'], post_hook="{{ note_files_read('raw_tutors') }}") }}
with source as (
    select
        {{ raw_column_names('raw_tutors') | join(', ') }}
    from {{ source('raw', 'raw_tutors') }}
),

delivered as (
    {{ rows_to_judge('raw_tutors', of_customer=false) }}
),

judged as (
    select
        delivered.*,
        {{ rejection_reason('raw_tutors', of_customer=false, subjects=ref('subjects')) }}
            as rejection_reason
    from delivered
),

deliveries as (
    {{ distinct_deliveries('raw_tutors', 'judged') }}
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
        {{ raw_column_names('raw_tutors') | join(', ') }},
        rejection_reason,
        is_repeat,
        in_force_from,
        {{ in_force_until('raw_tutors') }} as in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in
    from clocked
)

select * from final
