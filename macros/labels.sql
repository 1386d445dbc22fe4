{#-
    The labels of a snapshot D, and for how many days from D on each looks at events. It is mature, and only then not null, once
    the data reach so far; from then on only news about earlier events can change it. A run relies on this when it
    leaves labels alone (int_labels_due), so what a label looks at and what is written here must agree.
-#}
{% macro label_horizons() %}
    {%- set lapse_days = var('lapse_days') | int -%}
    {{ return({
        'label_first_session_success': 21,
        'label_session_velocity': 28,
        'label_health_score': 30,
        'label_churn_risk_14d': 14 + lapse_days,
        'label_churn_risk_30d': 30 + lapse_days,
    }) }}
{% endmacro %}

{#-
    What a run goes by that labels only what it must: the last run that wrote labels (recorded_in), the as-of date of then
    (as_of), and the snapshots that have to be labelled whole, because they have no labels yet or one became mature since.
    None when everything has to be labelled: on a first run, and when the as-of date has gone back. The labels are made of
    what this decides, so they are looked up by name: a ref would close a circle. All are literals, as only these
    spare scans.
-#}
{% macro last_labels(as_of, features) -%}
    {%- if execute and not flags.FULL_REFRESH -%}
        {%- set labels = adapter.get_relation(this.database, 'labels', 'customer_labels') -%}
        {%- if labels -%}
            {%- do stop_if_rebuilt_since(labels) -%}
            {%- set last = run_query(
                'select max(recorded_in), max(as_of), (select as_of from ' ~ as_of ~ ') from ' ~ labels
                ~ ' where recorded_in = (select max(recorded_in) from ' ~ labels ~ ')'
            ).rows[0] -%}
            {%- if last[1] and last[1] <= last[2] -%}
                {%- set snapshots = run_query(
                    'select distinct feature_timestamp from ' ~ features ~ ' where feature_timestamp not in (select feature_timestamp from '
                    ~ labels ~ ') or ' ~ label_became_mature('feature_timestamp', last[1], last[2]) ~ ' order by feature_timestamp'
                ).columns[0].values() -%}
                {{ return({'recorded_in': last[0], 'as_of': last[1], 'snapshots': snapshots}) }}
            {%- endif -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- Whether a label of the snapshot became mature when the as-of date went from one day to another. -#}
{% macro label_became_mature(feature_timestamp, from_day, to_day) -%}
    (
        {%- for days in label_horizons().values() %}
        {{ 'or ' if not loop.first }}(
            {{ feature_timestamp }} > {{ days_from(as_date(from_day), -days) }}
            and {{ feature_timestamp }} <= {{ days_from(as_date(to_day), -days) }}
        )
        {%- endfor %}
    )
{%- endmacro %}

{#- Whether a label of the snapshot that was mature on that day looks at what happened on `event_date`. -#}
{% macro mature_label_looks_at(event_date, feature_timestamp, day) -%}
    (
        {%- for days in label_horizons().values() %}
        {{ 'or ' if not loop.first }}(
            {{ feature_timestamp }} <= {{ days_from(as_date(day), -days) }}
            and {{ feature_timestamp }} > {{ days_from(event_date, -days) }}
        )
        {%- endfor %}
    )
{%- endmacro %}

{% macro as_date(day) -%}
    cast('{{ day }}' as date)
{%- endmacro %}

{#-
    The earliest of the snapshots that are labelled whole; what happened before it counts only by its sums. None when no customer
    but those whose whole history is read (`reads_history`) has labels due.
-#}
{% macro first_snapshot_due(labels_due) -%}
    {%- if execute -%}
        {{ return(run_query(
            'select min(snapshot_date) from ' ~ labels_due ~ ' where not reads_history'
        ).columns[0].values()[0]) }}
    {%- endif -%}
{%- endmacro %}
