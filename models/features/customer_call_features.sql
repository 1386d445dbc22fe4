with features as (
    select * from {{ ref('customer_features') }}
),

final as (
    {{ family_rows('features', 'call') }}
)

select * from final
