"""Programs by which packets find their class: classic BPF and eBPF, as data. Pure but for loading."""
