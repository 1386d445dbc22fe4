{{ config(
    pre_hook="{{ find_known_records('raw_tutors', of_customer=false) }}",
    post_hook="{{ note_files_read('raw_tutors') }}",
) }}
with source as {{ computed_for_each_reader() }} (
    select
        {{ raw_column_names('raw_tutors') | join(', ') }}
    from {{ source('raw', 'raw_tutors') }}
),

{{ known_records('raw_tutors', of_customer=false) }}

delivered as {{ computed_for_each_reader() }} (
    {{ rows_to_judge('raw_tutors') }}
),

judged as {{ computed_for_each_reader() }} (
    select
        delivered.*,
        {{ rejection_reason('raw_tutors', of_customer=false, subjects=ref('subjects')) }}
            as rejection_reason
    from delivered
),

{{ recorded_versions('raw_tutors', of_customer=false) }}

select * from final
