{#- Read from the columns of customer_features in _features.yml, where each feature is described once. -#}
-- depends_on: {{ ref('customer_features') }}
with final as (
    {%- for column in feature_columns() %}
    select
        '{{ column.name }}' as feature_name,
        cast({{ column.meta.position }} as integer) as position,
        'customer_{{ column.meta.family }}_features' as family,
        '{{ column.description | replace("'", "''") }}' as description,
        '{{ column.data_type }}' as data_type,
        {{ 'true' if column.meta.categorical else 'false' }} as is_categorical,
        cast({{ column.meta.window_days if column.meta.window_days is defined else 'null' }} as integer) as window_days,
        cast({{ "'" ~ column.meta.default ~ "'" if column.meta.default is defined else 'null' }} as varchar)
            as default_value,
        '{{ column.meta.unit }}' as unit
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select * from final
