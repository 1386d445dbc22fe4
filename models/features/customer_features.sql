{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    post_hook={'sql': "{{ export_features(this) }}", 'transaction': false},
) }}
{%- set missing = missing_timestamps(ref('int_snapshots')) %}
with
{%- for family in feature_families() %}
{{ family }}_features as (
    select * from {{ ref('customer_' ~ family ~ '_features') }}
    {%- if is_incremental() %}
    where feature_timestamp in ({{ missing }})
    {%- endif %}
),
{% endfor %}
final as (
    select
        session_features.customer_id,
        session_features.feature_timestamp
        {%- for name in feature_names() %},
        {{ name }}
        {%- endfor %}
    from session_features
    {%- for family in feature_families()[1:] %}
    inner join {{ family }}_features
        on
            session_features.customer_id = {{ family }}_features.customer_id
            and session_features.feature_timestamp = {{ family }}_features.feature_timestamp
    {%- endfor %}
)

select * from final
