{#- Schemas are the product's promised names (features, predictions, marts), never prefixed by a target's schema. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
