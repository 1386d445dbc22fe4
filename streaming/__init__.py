"""Freshness between nights: events in, fresh features, scores and alerts out (docs/online.md, "Between
nights").

``contract`` reads events, ``sources`` says where they come from; ``feed`` appends them to the raw feed,
where the next night finds them; ``history`` knows what was delivered so far; ``models`` are the nightly
build's own statements, which ``features`` runs for a few customers; ``online`` pushes the rows to Feast;
``alerts`` are what ``sinks`` send; ``ledger`` remembers positions, publications and alerts; ``service``
puts them together; ``forget`` removes a customer from all that.
"""
