"""The second datapath: connections are shown to a classifier by NFQUEUE, marked, and never proxied."""
