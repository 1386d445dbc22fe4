{#-
    A model that only adds rows inserts what its SELECT gives. dbt-duckdb makes a temporary relation of it first, from which it
    inserts: the rows are written twice, or, if it is a view, the SELECT is planned three times, which takes longer every night
    than some of the models. All else is dbt-duckdb's: a first run, a full refresh, a contract that the table does not keep,
    other strategies.
-#}
{% materialization incremental, adapter='duckdb' -%}
    {%- set existing_relation = load_cached_relation(this) -%}
    {%- set strategy = config.get('incremental_strategy') -%}
    {%- set columns = [] -%}
    {%- if existing_relation and existing_relation.is_table and not should_full_refresh()
        and strategy in ['append', 'supersede'] and config.get('on_schema_change') == 'fail' -%}
        {%- set columns = adapter.get_columns_in_relation(existing_relation) -%}
    {%- endif -%}
    {%- if not columns or not keep_contract(columns) -%}
        {{ return(dbt.materialization_incremental_duckdb()) }}
    {%- endif -%}
    {%- set target_relation = this.incorporate(type='table') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- call statement('main') -%}
        {%- for select in selects_by_pass(sql) %}
        insert into {{ target_relation }} by name (
            {{ rows_of_columns(select, columns) }}
        );
        {%- endfor -%}
        {%- if strategy == 'supersede' %}
        {{ delete_superseded_records(target_relation) }}
        {%- endif -%}
    {%- endcall -%}

    {%- do persist_docs(target_relation, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do adapter.commit() -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}

{#- Whether columns are those of the model's contract, if it has one that is enforced. -#}
{% macro keep_contract(columns) -%}
    {%- set found = [] -%}
    {%- set expected = [] -%}
    {%- if config.get('contract').enforced -%}
        {%- for column in columns -%}
            {%- do found.append(column.name ~ ' ' ~ column.dtype | upper) -%}
        {%- endfor -%}
        {%- for column in model.columns.values() -%}
            {%- do expected.append(column.name ~ ' ' ~ column.data_type | upper) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(found | sort == expected | sort) }}
{%- endmacro %}

{#-
    The rows of a SELECT that gives exactly these columns, in whatever order; an error when it lacks one, gives one of another
    type, or (from `insert … by name`, for what the star adds) gives another. The statement that needs them says so itself: to
    ask first, by DESCRIBE, is to plan it twice. DuckDB knows the types when it plans, so the condition is gone by then.
-#}
{% macro rows_of_columns(select, columns) -%}
    {%- set names = columns | map(attribute='quoted') | join(', ') -%}
    select
        {{ names }},
        * exclude ({{ names }})
    from (
        {{ select }}
    ) as new_rows
    where
        case
            {%- for column in columns %}
            when typeof({{ column.quoted }}) <> '{{ column.dtype }}'
                then error(
                    '{{ this.schema }}.{{ this.identifier }}, column {{ column.name }}: the model gives ' || typeof({{ column.quoted }})
                    || ' now, the table holds {{ column.dtype }}. Run ''dbt build --full-refresh''.'
                )
            {%- endfor %}
            else true
        end
{%- endmacro %}
