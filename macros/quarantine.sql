{#- Stops the build, naming table and reason, when too large a share of a raw table breaks the contract. -#}
{% macro stop_if_too_many_rejected(summary) %}
    {%- if execute -%}
        {%- set limit = var('max_rejected_share') | float -%}
        {%- set broken = run_query(
            'select source_table, rejected_versions, accepted_versions + rejected_versions, rejected_share, main_reason from '
            ~ summary ~ ' where rejected_share > ' ~ limit ~ ' order by source_table'
        ).rows -%}
        {%- for row in broken -%}
            {{ exceptions.raise_compiler_error(
                'Raw table ' ~ row[0] ~ ': ' ~ row[1] ~ ' of ' ~ row[2] ~ ' versions (' ~ '%.1f' | format(row[3] * 100)
                ~ ' %) break the contract, most often ' ~ row[4] ~ '; more than max_rejected_share ('
                ~ '%.1f' | format(limit * 100) ~ ' %). See quarantine.rejected_rows.'
            ) }}
        {%- endfor -%}
    {%- endif -%}
{% endmacro %}
