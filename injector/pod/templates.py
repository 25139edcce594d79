"""The validating webhook's answer about Pod templates, so that who applies a Deployment reads what is wrong. Pure.

Only a controller hears the answers about Pods. So what :func:`injector.pod.plan.plan` would say about a Pod of the
template is said here, too, to whoever writes it:

* What is wrong in the template itself is refused. No Pod would come out of it.
* What depends on a shared policy is a warning: its ConfigMap may be applied after the workload.
* A template that has not changed is not judged, whatever is in it: an object that is there must remain changeable.
* Nor is the template of an object that a controller made, as a CronJob's Jobs: who wrote it is not asking.

Nothing depends on this webhook. Pods are reviewed when they are created, whether it was asked or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from injector.errors import InjectionError, SharedPolicyError
from injector.pod.defaults import InjectionDefaults
from injector.pod.plan import Skip, plan
from injector.pod.pods import controller_of
from injector.pod.reviews import ReviewRequest, Rules, SharedPolicies, allowed, answered
from injector.pod.workloads import misplaced
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.namespace import NO_RULES


def validate_template(
    review: Any, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules = lambda: NO_RULES
) -> dict[str, Any]:
    """Allowed, with warnings or without, or a refusal with the remedy. Never raises, for any JSON."""
    return answered(review, partial(_validate, defaults=defaults, shared=shared, rules=rules))


def _validate(
    request: ReviewRequest, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> dict[str, Any]:
    found = request.found
    if not found.place or found.pod == request.before or controller_of(found.around) is not None:
        return allowed()
    try:
        told = list(_warnings(request, defaults, shared, rules))
    except (AnnotationsError, InjectionError) as error:
        raise InjectionError(f"{found.place}: {error}") from None
    return allowed([*misplaced(found), *(f"{found.place}: {warning}" for warning in told)])


def _warnings(
    request: ReviewRequest, defaults: InjectionDefaults, shared: SharedPolicies, rules: Rules
) -> Iterator[str]:
    """What Pods of the template would be warned of. Raises for what refuses them, whatever shared policies say."""
    pod, held = request.found.pod, rules()
    planned = plan(pod, defaults, _unread, held)
    if isinstance(planned, Skip):
        if planned.unexpected:
            yield f"Its Pods are not held to limits. {planned.reason}"
        return
    if planned.status.policy is None:  # it names a shared one
        try:
            planned = plan(pod, defaults, partial(shared, request.namespace), held)
        except (AnnotationsError, InjectionError) as error:
            yield f"As its ConfigMap is now, Pods are refused. {error}"
            return
        assert not isinstance(planned, Skip), "shared policies do not decide about that"
    yield from planned.warnings


def _unread(_name: str) -> str | None:
    raise SharedPolicyError("It is not read yet.")
