{{ config(materialized='ephemeral') }}
with lifetime as (
    select * from {{ ref('int_customer_lifetime') }}
),

customers as (
    select
        customer_id,
        {{ customer_key('customer_id') }} as customer_key,
        signed_up_at,
        {{ visible_from('signed_up_at') }} as visible_from,
        in_force_until as visible_until
    from {{ ref('stg_customers') }}
    where {{ is_ever_visible('signed_up_at') }}
),

-- A signup that the snapshot sees, and a sign of life in the last in_scope_days
final as (
    select
        customers.customer_id,
        lifetime.customer_key,
        lifetime.snapshot_date,
        customers.signed_up_at,
        {%- for kind in latest_kinds() %}
        lifetime.latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        lifetime.{{ quantity }}_lifetime{{ ',' if not loop.last }}
        {%- endfor %}
    from lifetime
    inner join customers
        on
            lifetime.customer_key = customers.customer_key
            and {{ is_visible_at('lifetime.snapshot_date', 'customers') }}
    where lifetime.latest_activity_on >= {{ days_from('lifetime.snapshot_date', -(var('in_scope_days') | int)) }}
)

select * from final
