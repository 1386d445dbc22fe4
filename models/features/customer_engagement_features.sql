with features as (
    select * from {{ ref('customer_features') }}
),

final as (
    {{ family_rows('features', 'engagement') }}
)

select * from final
