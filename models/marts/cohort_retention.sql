{%- set months = 'offsets.generated_number - 1' -%}
with run as (
    select cast({{ dbt.date_trunc('month', 'as_of') }} as date) as running_month
    from {{ ref('int_as_of') }}
),

customers as (
    select
        customer_id,
        cast({{ dbt.date_trunc('month', 'signed_up_at') }} as date) as signup_month,
        coalesce(acquisition_channel, 'unknown') as acquisition_channel
    from {{ ref('stg_customers') }}
    where in_force_until is null
),

sessions as (
    select
        customer_id,
        cast({{ dbt.date_trunc('month', 'completed_at') }} as date) as activity_month,
        count(*) as completed_sessions
    from {{ ref('int_completed_sessions') }}
    group by
        customer_id,
        cast({{ dbt.date_trunc('month', 'completed_at') }} as date)
),

payments as (
    select
        customer_id,
        cast({{ dbt.date_trunc('month', 'attempted_at') }} as date) as activity_month,
        sum(case status when 'succeeded' then amount when 'refunded' then -amount else 0 end) as revenue
    from {{ ref('stg_payments') }}
    where in_force_until is null
    group by
        customer_id,
        cast({{ dbt.date_trunc('month', 'attempted_at') }} as date)
),

offsets as (
    {{ numbers_up_to(600) }}
),

cohorts as (
    select
        signup_month,
        acquisition_channel,
        count(*) as customers
    from customers
    group by
        signup_month,
        acquisition_channel
),

-- Every complete month of every cohort, also one in which nobody was active
cohort_months as (
    select
        cohorts.signup_month,
        cohorts.acquisition_channel,
        cohorts.customers,
        {{ months }} as months_since_signup,
        cast({{ dbt.dateadd('month', months, 'cohorts.signup_month') }} as date) as activity_month
    from cohorts
    cross join offsets
    cross join run
    where {{ dbt.dateadd('month', months, 'cohorts.signup_month') }} < run.running_month
),

active as (
    select
        customers.signup_month,
        customers.acquisition_channel,
        sessions.activity_month,
        count(*) as active_customers,
        sum(sessions.completed_sessions) as completed_sessions
    from customers
    inner join sessions
        on customers.customer_id = sessions.customer_id
    group by
        customers.signup_month,
        customers.acquisition_channel,
        sessions.activity_month
),

paid as (
    select
        customers.signup_month,
        customers.acquisition_channel,
        payments.activity_month,
        sum(payments.revenue) as revenue
    from customers
    inner join payments
        on customers.customer_id = payments.customer_id
    group by
        customers.signup_month,
        customers.acquisition_channel,
        payments.activity_month
),

final as (
    select
        cohort_months.signup_month,
        cohort_months.acquisition_channel,
        cohort_months.months_since_signup,
        cohort_months.activity_month,
        cohort_months.customers,
        coalesce(active.active_customers, 0) as active_customers,
        coalesce(active.active_customers, 0) / cast(cohort_months.customers as double) as retention,
        cast(coalesce(active.completed_sessions, 0) as bigint) as completed_sessions,
        cast(coalesce(paid.revenue, 0) as double) as revenue
    from cohort_months
    left join active
        on
            cohort_months.signup_month = active.signup_month
            and cohort_months.acquisition_channel = active.acquisition_channel
            and cohort_months.activity_month = active.activity_month
    left join paid
        on
            cohort_months.signup_month = paid.signup_month
            and cohort_months.acquisition_channel = paid.acquisition_channel
            and cohort_months.activity_month = paid.activity_month
)

select * from final
