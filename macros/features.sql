{#- Definitions shared by several features. Whatever is summed is exact; a double is made once, at the end. -#}

{#- numerator / denominator as a double; `otherwise` where there is nothing to divide by. -#}
{% macro ratio(numerator, denominator, otherwise) -%}
    case
        when {{ denominator }} > 0 then cast({{ numerator }} as double) / {{ denominator }}
        else {{ otherwise }}
    end
{%- endmacro %}

{#- Whole days since a moment, at most 999; 999 without one. -#}
{% macro days_since(moment, snapshot_date) -%}
    cast(coalesce(least({{ whole_days(moment, snapshot_date) }}, 999), 999) as integer)
{%- endmacro %}

{#- The columns of a feature family in the order of models/features/_features.yml, to select from. -#}
{% macro feature_names(family=none) %}
    {%- set named = [] -%}
    {%- if execute -%}
        {%- for column in graph.nodes['model.' ~ project_name ~ '.customer_features'].columns.values() -%}
            {%- set meta = column.config.meta if column.config is defined and column.config.meta else column.meta -%}
            {%- if meta.family is defined and (family is none or meta.family == family) -%}
                {%- do named.append(column.name) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(named) }}
{% endmacro %}

{% macro feature_families() %}
    {{ return(['session', 'call', 'engagement', 'payment', 'tutor', 'profile']) }}
{% endmacro %}
