{#-
    Incremental staging (docs/decisions.md, "Increments"). A base model records every delivered row with its judgement and
    its clocks, for one run after another: `recorded_in` is the run that wrote the record, `replaced_in` the later run in
    which a record of the same key took its place (null for the current one). Nothing is deleted, so whoever reads a base
    model later knows from `recorded_in` and `replaced_in` alone what is new to it and what it has to take back.

    A run judges again only the keys that new files bring, and those whose customer became known or was dated anew.
-#}

{#- The rows of all keys that this run has to judge, given CTEs `source` (what new files hold) and `arrivals`. -#}
{% macro rows_to_judge(table_name, of_customer=true) -%}
    {%- set columns = raw_column_names(table_name) | join(', ') -%}
    {%- set key = raw_key(table_name) -%}
    {%- set last_run = '(select coalesce(max(recorded_in), 0) from ' ~ this ~ ')' -%}
    select {{ columns }}
    from source
    {%- if is_incremental() %}
    union
    select {{ columns }}
    from {{ this }} as known
    where
        known.replaced_in is null
        and exists (
            select 1
            from (
                select {{ key | join(', ') }}
                from source
                {%- if of_customer %}
                union
                {# Rows of a customer who is new are among the rejected ones, which spares the look at all others. -#}
                select {{ key | join(', ') }}
                from {{ this }}
                where
                    replaced_in is null
                    and rejection_reason = 'unknown_customer'
                    and customer_id in (
                        select arrived_customer_id from arrivals
                        where arrived_in > {{ last_run }}
                    )
                union
                select {{ key | join(', ') }}
                from {{ this }}
                where
                    replaced_in is null
                    and customer_id in (
                        select arrived_customer_id from arrivals
                        where changed_in > {{ last_run }} and arrived_in <= {{ last_run }}
                    )
                {%- endif %}
            ) as touched
            where {{ same_key(key, 'known', 'touched') }}
        )
    {%- endif %}
{%- endmacro %}

{#- Whether two relations agree in the key; a null in it is a value like any other. -#}
{% macro same_key(key, one, other) -%}
    {%- for name in key -%}
    {{ one }}.{{ name }} is not distinct from {{ other }}.{{ name }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{#-
    The rest of a base model, after its CTE `judged`: the CTEs that tell deliveries apart, set the clocks and make the
    records, in `final`. `is_repeat`: another row of the same key and `loaded_at`, accepted or rejected like this one, is
    kept instead of it. Only the few rows that came more than once are compared; and where a table has no `updated_at`,
    its rows are delivered once as a rule, so that only the few others have versions to be put in order.
-#}
{% macro recorded_versions(table_name, of_customer=true) -%}
{%- set has_versions = 'updated_at' in raw_column_names(table_name) -%}
{%- set delivery = raw_key(table_name) + (['loaded_at'] if has_versions else []) -%}
repeated_deliveries as (
    select {{ delivery | join(', ') }}
    from judged
    group by {{ delivery | join(', ') }}
    having count(*) > 1
),

deliveries as (
    select
        judged.*,
        false as came_again,
        false as is_repeat
    from judged
    where not exists (
        select 1 from repeated_deliveries
        where {{ same_key(delivery, 'judged', 'repeated_deliveries') }}
    )
    union all
    select
        repeated.*,
        true as came_again,
        {{ delivery_number(table_name) }} > 1 as is_repeat
    from (
        select distinct judged.*
        from judged
        where exists (
            select 1 from repeated_deliveries
            where {{ same_key(delivery, 'judged', 'repeated_deliveries') }}
        )
    ) as repeated
),

clocked as (
    select
        *,
        case
            when {{ is_version() }}
            {%- if of_customer %}
                then greatest({{ first_midnight_delivered('loaded_at') }}, arrived_from)
            {%- else %}
                then {{ first_midnight_delivered('loaded_at') }}
            {%- endif %}
        end as in_force_from
    from deliveries
),

{%- set columns = raw_column_names(table_name) + ['rejection_reason', 'is_repeat', 'in_force_from'] %}

versions as (
    select
        {{ columns | join(', ') }},
        {{ in_force_until(table_name) }} as in_force_until
    from clocked
    {%- if not has_versions %}
    where came_again
    union all
    select
        {{ columns | join(', ') }},
        cast(null as date) as in_force_until
    from clocked
    where not came_again
    {%- endif %}
),

final as (
    select
        {{ columns | join(', ') }},
        in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in
    from versions
)
{%- endmacro %}

{#- The records that keep the contract, each delivery once. -#}
{% macro is_version() -%}
    rejection_reason is null
    and not is_repeat
{%- endmacro %}

{#- Those of them that hold today: the versions that staging shows. -#}
{% macro is_current_version() -%}
    {{ is_version() }}
    and replaced_in is null
{%- endmacro %}

{#- The number of this run: greater than that of any run that left a record. -#}
{% macro this_run() -%}
    {{ return(adapter.dispatch('this_run')()) }}
{%- endmacro %}

{#- Until an engine that lands its raw tables itself numbers its runs, it can only build from scratch. -#}
{% macro default__this_run() -%}
    1
{%- endmacro %}

{% macro duckdb__this_run() -%}
    (select run_number from raw.this_run)
{%- endmacro %}

{#- Incremental strategy of the base models: what this run judged takes the place of the current records of its keys. -#}
{% macro get_incremental_supersede_sql(arguments) %}
    {%- set columns = arguments.dest_columns | map(attribute='quoted') | join(', ') -%}
    update {{ arguments.target_relation }} as target_records
    set replaced_in = {{ this_run() }}
    where
        target_records.replaced_in is null
        and exists (
            select 1 from {{ arguments.temp_relation }} as new_records
            where {{ same_key(arguments.unique_key, 'target_records', 'new_records') }}
        );

    insert into {{ arguments.target_relation }} ({{ columns }})
    select {{ columns }} from {{ arguments.temp_relation }};
{% endmacro %}

{#- What a model that adds up facts does not hold yet; everything current on a first run. -#}
{% macro news(facts) -%}
    {%- if is_incremental() %}
    {%- set last_run = run_query('select max(recorded_in) from ' ~ this).columns[0].values()[0] or 0 if execute else 0 -%}
    {%- do stop_if_rebuilt_since(this) -%}
    {{ news_since(last_run, facts) }}
    {%- else %}
    select
        *,
        1 as direction
    from {{ facts }}
    where replaced_in is null
    {%- endif %}
{%- endmacro %}

{#- Records written since a run (`direction` 1), and those written by then that were replaced since (-1). -#}
{% macro news_since(run, facts) -%}
    select
        *,
        1 as direction
    from {{ facts }}
    where
        replaced_in is null
        and recorded_in > {{ run }}
    union all
    select
        *,
        -1 as direction
    from {{ facts }}
    where
        replaced_in > {{ run }}
        and recorded_in <= {{ run }}
{%- endmacro %}

{#- Records of base models that were built anew would be added a second time to what was added up from the old ones. -#}
{% macro stop_if_rebuilt_since(relation) %}
    {%- if execute -%}
        {% do adapter.dispatch('stop_if_rebuilt_since')(relation) %}
    {%- endif -%}
{% endmacro %}

{% macro default__stop_if_rebuilt_since(relation) %}
{% endmacro %}

{% macro duckdb__stop_if_rebuilt_since(relation) %}
    {%- set rebuilt = run_query(
        'select source_table from raw.files_read group by source_table having min(read_in) > (select min(recorded_in) from '
        ~ relation ~ ') order by source_table'
    ).columns[0].values() -%}
    {%- if rebuilt -%}
        {{ exceptions.raise_compiler_error(
            'The base models of ' ~ rebuilt | join(', ') ~ ' were built anew after ' ~ relation
            ~ ". Run 'dbt build --full-refresh'."
        ) }}
    {%- endif -%}
{% endmacro %}
