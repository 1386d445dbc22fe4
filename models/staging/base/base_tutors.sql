with source as (
    select
        {{ raw_column_names('raw_tutors') | join(', ') }}
    from {{ source('raw', 'raw_tutors') }}
),

judged as (
    select
        *,
        {{ rejection_reason('raw_tutors', of_customer=false, subjects=ref('subjects')) }}
            as rejection_reason
    from source
)

select * from judged
