{#- No feature is null, and each lies in the range of its unit (var plausible_ranges): shares in [0, 1], counts from 0 on. -#}
{% test plausible_features(model) %}
    {%- set broken = [] -%}
    {%- for column in feature_columns() -%}
        {%- set ranges = var('plausible_ranges') -%}
        {%- set least, greatest = ranges.get(column.meta.unit, ranges[column.data_type]) -%}
        {%- do broken.append(column.name ~ ' is null') -%}
        {%- if least is not none -%}
            {%- do broken.append(column.name ~ ' < ' ~ least) -%}
        {%- endif -%}
        {%- if greatest is not none -%}
            {%- do broken.append(column.name ~ ' > ' ~ greatest) -%}
        {%- endif -%}
    {%- endfor -%}
    select *
    from {{ model }}
    where {{ broken | join(' or ') or 'true' }}
{% endtest %}
