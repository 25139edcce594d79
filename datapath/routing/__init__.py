"""From what is known of a connection to its class: matchers in an ordered table, first match wins."""
