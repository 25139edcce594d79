"""Labels as they are written in options and tables: KEY=VALUE, with commas between several."""

from __future__ import annotations

from collections.abc import Mapping


def parse_labels(text: str, option: str) -> dict[str, str]:
    """Raises :class:`~traffic_policy.errors.ConfigError`, which names the option."""
    from traffic_policy.errors import ConfigError

    labels = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{option}: {part} is no label. Write KEY=VALUE, with commas between several.")
        labels[key.strip()] = value.strip()
    return labels


def labels_text(labels: Mapping[str, str]) -> str:
    """The same again; empty: there are none."""
    return ",".join(f"{key}={value}" for key, value in labels.items())
