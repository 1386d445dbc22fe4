{#- No feature is null, shares lie in [0, 1], stars in [1, 5], counts and days are not negative; by the unit in the YAML. -#}
{% test plausible_features(model) %}
    {%- set broken = [] -%}
    {%- for column in feature_columns() -%}
        {%- set unit = column.meta.unit -%}
        {%- do broken.append(column.name ~ ' is null') -%}
        {%- if unit == 'share' or unit == 'flag' -%}
            {%- do broken.append(column.name ~ ' not between 0 and 1') -%}
        {%- elif unit == 'stars (1-5)' -%}
            {%- do broken.append(column.name ~ ' not between 1 and 5') -%}
        {%- elif unit == 'code' -%}
            {%- do broken.append(column.name ~ ' < -1') -%}
        {%- elif column.data_type == 'integer' -%}
            {%- do broken.append(column.name ~ ' < 0') -%}
        {%- endif -%}
    {%- endfor -%}
    select *
    from {{ model }}
    where {{ broken | join(' or ') or 'true' }}
{% endtest %}
