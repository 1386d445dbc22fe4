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
            {%- set last_run -%}
                select
                    max(recorded_in),
                    max(as_of),
                    (select as_of from {{ as_of }})
                from {{ labels }}
                where recorded_in = (select max(recorded_in) from {{ labels }})
            {%- endset -%}
            {%- set last = run_query(last_run).rows[0] -%}
            {%- if last[1] and last[1] <= last[2] -%}
                {%- set snapshots_due -%}
                    select feature_timestamp
                    from (select distinct feature_timestamp from {{ features }}) as snapshots
                    where
                        feature_timestamp not in (select distinct feature_timestamp from {{ labels }})
                        or {{ label_became_mature('feature_timestamp', last[1], last[2]) }}
                    order by feature_timestamp
                {%- endset -%}
                {%- set snapshots = literal_timestamps(snapshots_due) -%}
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

{#- Whether a tile holds anything that a label adds up. -#}
{% macro counts_in_labels(tiles) -%}
    (
        {%- for quantity in [
            'completed_sessions', 'rating_stars', 'ratings', 'inbound_calls', 'succeeded_payments', 'failed_payments'
        ] %}
        {{ 'or ' if not loop.first }}{{ tiles }}.{{ quantity }} <> 0
        {%- endfor %}
    )
{%- endmacro %}

{#-
    The earliest snapshot with labels due, before which int_label_outcomes need not read: what counts of it are sums, which
    int_customer_lifetime holds. None when there is nothing due, or when those sums are of tiles that were built anew since.
-#}
{% macro first_snapshot_due(labels_due, lifetime, tiles) -%}
    {%- if execute and load_relation(labels_due) -%}
        {%- set first_due -%}
            select first_due
            from (select min(snapshot_date) as first_due from {{ labels_due }}) as due
            where
                exists (
                    select 1 from {{ lifetime }}
                    where
                        snapshot_date = first_due
                        and tiles_built_in = (select min(recorded_in) from {{ tiles }})
                )
        {%- endset -%}
        {{ return(run_query(first_due).columns[0].values()[0]) }}
    {%- endif -%}
{%- endmacro %}

{#-
    The moment before which int_label_lapses need not read. A customer of old without a session for lapse_days before the
    earliest horizon due is in a lapse whenever the last session was. Who signed up later is not, and is read from the first:
    no session lies more than 24 hours before the signup that was delivered first.
-#}
{% macro lapses_read_from(labels_due, customers, arrivals) -%}
    {%- if execute and load_relation(labels_due) -%}
        {%- set first_horizon_less_lapse = dbt.dateadd('day', 14 - var('lapse_days') | int, 'first_due') -%}
        {%- set read_from -%}
            select
                least(
                    {{ first_horizon_less_lapse }},
                    (
                        select {{ dbt.dateadd('day', -1, 'min(arrivals.first_signed_up_at)') }}
                        from {{ arrivals }} as arrivals
                        inner join {{ customers }} as customers
                            on
                                arrivals.customer_id = customers.customer_id
                                and customers.in_force_until is null
                                and customers.signed_up_at >= {{ first_horizon_less_lapse }}
                    )
                )
            from (select min(snapshot_date) as first_due from {{ labels_due }}) as due
        {%- endset -%}
        {{ return(run_query(read_from).columns[0].values()[0]) }}
    {%- endif -%}
{%- endmacro %}
