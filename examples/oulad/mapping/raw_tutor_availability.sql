-- No source: a table without rows.
select
    cast(null as varchar) as tutor_id,
    cast(null as varchar) as subject,
    cast(null as date) as week_start,
    cast(null as double) as available_hours,
    cast(null as timestamp) as loaded_at
where false
