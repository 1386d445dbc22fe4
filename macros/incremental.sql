{#-
    A model that only adds rows inserts what its SELECT gives. dbt-duckdb makes a temporary relation of it first, from which it
    inserts: the rows are written twice, or, if it is a view, the SELECT is planned three times, which takes longer every night
    than some of the models. All else is dbt-duckdb's: a first run, a full refresh, changed columns, other strategies.
-#}
{% materialization incremental, adapter='duckdb' -%}
    {%- set existing_relation = load_cached_relation(this) -%}
    {%- set strategy = config.get('incremental_strategy') -%}
    {%- if not existing_relation or not existing_relation.is_table or should_full_refresh()
        or strategy not in ['append', 'supersede'] or not has_columns_of(existing_relation, sql) -%}
        {{ return(dbt.materialization_incremental_duckdb()) }}
    {%- endif -%}
    {%- set target_relation = this.incorporate(type='table') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- call statement('main') -%}
        {%- for select in selects_by_pass(sql) %}
        insert into {{ target_relation }} by name (
            {{ select }}
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

{#- Whether a relation has exactly the columns that a SELECT gives, in whatever order; and the SELECT those of its contract. -#}
{% macro has_columns_of(relation, sql) -%}
    {%- if config.get('contract').enforced -%}
        {%- do assert_columns_equivalent(sql) -%}
        {%- set given = get_column_schema_from_query(get_empty_schema_sql(model.columns)) -%}
    {%- else -%}
        {%- set given = get_column_schema_from_query(sql) -%}
    {%- endif -%}
    {%- set names = [] -%}
    {%- for columns in [adapter.get_columns_in_relation(relation), given] -%}
        {%- set described = [] -%}
        {%- for column in columns -%}
            {%- do described.append(column.name ~ ' ' ~ column.data_type) -%}
        {%- endfor -%}
        {%- do names.append(described | sort) -%}
    {%- endfor -%}
    {{ return(names[0] == names[1]) }}
{%- endmacro %}
