with source as (
    select
        {{ raw_column_names('raw_tutor_availability') | join(', ') }}
    from {{ source('raw', 'raw_tutor_availability') }}
),

judged as (
    select
        *,
        {{ rejection_reason('raw_tutor_availability', of_customer=false, subjects=ref('subjects')) }}
            as rejection_reason
    from source
)

select * from judged
