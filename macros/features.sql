{#- Definitions shared by several features. Whatever is summed is exact; a double is made once, at the end. -#}

{#- numerator / denominator as a double; `otherwise` where there is nothing to divide by. -#}
{% macro ratio(numerator, denominator, otherwise) -%}
    case
        when {{ denominator }} > 0 then cast({{ numerator }} as double) / {{ denominator }}
        else {{ otherwise }}
    end
{%- endmacro %}

{#- Days since a day (first_midnight_from a moment), at most 999; 999 without one. -#}
{% macro days_since(day, snapshot_date) -%}
    cast(coalesce(least({{ dbt.datediff(day, snapshot_date, 'day') }}, 999), 999) as integer)
{%- endmacro %}

{#- The features as they are written in models/features/_features.yml, in its order; a family's alone when one is named. -#}
{% macro feature_columns(family=none) %}
    {%- set columns = [] -%}
    {%- if execute -%}
        {%- for column in graph.nodes['model.' ~ project_name ~ '.customer_features'].columns.values() -%}
            {%- if column.meta.family is defined and (family is none or column.meta.family == family) -%}
                {%- do columns.append(column) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(columns) }}
{% endmacro %}

{#- Their names, to select from. -#}
{% macro feature_names(family=none) %}
    {{ return(feature_columns(family) | map(attribute='name') | list) }}
{% endmacro %}

{#- The rows of customer_features with the features of a family alone. -#}
{% macro family_rows(relation, family) -%}
    select
        customer_id,
        feature_timestamp
        {%- for name in feature_names(family) %},
        {{ name }}
        {%- endfor %}
    from {{ relation }}
{%- endmacro %}
