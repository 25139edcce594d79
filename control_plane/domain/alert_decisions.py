"""Decides about alert rules, channels, silences, and what becomes of alerts."""

from __future__ import annotations

import re
from typing import Final

from control_plane.domain.alert_book import AlertBook, AlertState
from control_plane.domain.commands import (
    AlertCommand,
    EndSilence,
    FireAlert,
    RemoveAlertChannel,
    RemoveAlertRule,
    ResolveAlert,
    SetAlertChannel,
    SetAlertRule,
    SetSilence,
    TellAlerts,
)
from control_plane.domain.errors import InvalidError, StateConflictError, UnknownSubjectError
from control_plane.domain.events import (
    AlertChannelRemoved,
    AlertChannelSet,
    AlertFired,
    AlertResolved,
    AlertRuleRemoved,
    AlertRuleSet,
    AlertsTold,
    Event,
    SilenceEnded,
    SilenceSet,
)
from control_plane.domain.names import check_name

MOST_RULES: Final = 100
MOST_CHANNELS: Final = 20
MOST_SILENCES: Final = 200
MOST_FIRING: Final = 100
"""Of one rule. Nobody reads more, and each is an event."""
MOST_FIRING_TOGETHER: Final = 1000
_SILENCE_ID: Final = re.compile(r"[0-9a-f]{1,32}")
_LONGEST_TROUBLE: Final = 300


def about_alerts(book: AlertBook, command: AlertCommand, now: int) -> tuple[Event, ...]:
    """The events of a command at ``now``. Raises :class:`~control_plane.domain.errors.RefusedError`."""
    match command:
        case SetAlertRule(name, rule):
            check_name(name, "a rule")
            _check_room(len(book.rules), MOST_RULES, "rules", known=name in book.rules)
            if missing := [channel for channel in rule.channels if channel not in book.channels]:
                raise InvalidError(
                    f"There is no channel {missing[0]}.", "`podlane alerts channels` has those there are."
                )
            return () if book.rules.get(name) == rule else (AlertRuleSet(name, rule.to_document()),)
        case RemoveAlertRule(name):
            if name not in book.rules:
                raise UnknownSubjectError(
                    f"There is no rule {name[:70]}.", "`podlane alerts rules` has those there are."
                )
            return (AlertRuleRemoved(name, now),)
        case SetAlertChannel(name, channel):
            check_name(name, "a channel")
            _check_room(len(book.channels), MOST_CHANNELS, "channels", known=name in book.channels)
            return () if book.channels.get(name) == channel else (AlertChannelSet(name, channel.to_document()),)
        case RemoveAlertChannel(name):
            return _remove_channel(book, name)
        case SetSilence() | EndSilence():
            return _about_silence(book, command, now)
    return _of_alert(book, command, now)


def _remove_channel(book: AlertBook, name: str) -> tuple[Event, ...]:
    if name not in book.channels:
        raise UnknownSubjectError(f"There is no channel {name[:70]}.", "`podlane alerts channels` has those there are.")
    if users := [rule for rule, content in book.rules.items() if name in content.channels]:
        raise StateConflictError(
            f"The rule {users[0]} tells the channel {name}.", "Change its rules first, or they would tell all channels."
        )
    return (AlertChannelRemoved(name),)


def _about_silence(book: AlertBook, command: SetSilence | EndSilence, now: int) -> tuple[Event, ...]:
    id = command.silence
    if isinstance(command, EndSilence):
        if id not in book.silences:
            raise UnknownSubjectError(f"There is no silence {id[:70]}.", "Look at the list of silences.")
        return (SilenceEnded(id),)
    silence = command.content
    if not _SILENCE_ID.fullmatch(id):
        raise InvalidError(f"{id[:70]!r} is not an id of a silence.", "Write hexadecimal digits, 32 at most.")
    if silence.ends_at <= now:
        raise InvalidError("The silence would have ended already.", "Choose a later end.")
    there = sum(each.ends_at > now for each in book.silences.values())
    _check_room(there, MOST_SILENCES, "silences", known=id in book.silences)
    return () if book.silences.get(id) == silence else (SilenceSet(id, silence.to_document(), now),)


def _of_alert(book: AlertBook, command: FireAlert | ResolveAlert | TellAlerts, now: int) -> tuple[Event, ...]:
    """Who comes late, or is not the only one, changes nothing."""
    match command:
        case FireAlert(name, id, labels, annotations, value, since):
            known = book.alerts.get(id)
            if name not in book.rules or (known is not None and not known.ended):
                return ()
            firing = book.firing
            if len(firing) >= MOST_FIRING_TOGETHER or sum(each.rule == name for each in firing) >= MOST_FIRING:
                return ()
            return (AlertFired(name, id, labels, annotations, value, since, now),)
        case ResolveAlert(name, id, reason):
            known = book.alerts.get(id)
            return (AlertResolved(name, id, now, reason),) if known is not None and not known.ended else ()
        case TellAlerts(channel, states, trouble):
            if channel not in book.channels:
                return ()
            known_states = {
                id: AlertState(state).value
                for id, state in states.items()
                if id in book.alerts and book.alerts[id].told.get(channel) != state
            }
            return (AlertsTold(channel, known_states, now, trouble[:_LONGEST_TROUBLE]),) if known_states else ()


def _check_room(there: int, most: int, what: str, *, known: bool) -> None:
    if there >= most and not known:
        raise StateConflictError(f"A tenant has {most} {what} at most.", "Remove one first.")
