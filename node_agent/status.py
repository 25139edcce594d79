"""What a workload is to have, and what it has. For the admin server, and for a control plane that asks."""

from __future__ import annotations

from daemon.documents.workloads import WorkloadStatus
from node_agent.lanes import WorkloadLanes


def workload_status(lanes: WorkloadLanes) -> WorkloadStatus:
    """Its entry in the document of ``/workloads``."""
    wanted, plane = lanes.workload, lanes.plane
    status = None if plane is None else plane.status()
    place, proxy, budget = wanted.network_namespace, lanes.marked_by, lanes.budget
    budget_warning = (budget.warning,) if budget is not None and budget.warning else ()
    return WorkloadStatus(
        name=wanted.name,
        state=lanes.state.value,
        reason=lanes.reason,
        network_namespace=None if place is None else str(place),
        interface=None if status is None else status.interface,
        datapath=None if lanes.in_force_in is None else lanes.chosen.datapath.value,
        datapath_reason="" if lanes.in_force_in is None else lanes.chosen.reason,
        hash=None if wanted.lanes is None else wanted.lanes.digest,
        policy=None if status is None else status.policy.to_document(),
        lost=() if plane is None else plane.repairs.lost,
        warnings=() if wanted.lanes is None else (*wanted.lanes.warnings, *lanes.others, *budget_warning),
        fleet_policy=wanted.fleet_policy or None,
        cluster_policy=None if wanted.policy is None else str(wanted.policy),
        enforce=None if lanes.in_force_in is None else lanes.place.end.value,
        enforce_reason=(lanes.place.reason or None) if lanes.in_force_in is not None else None,
        budget=None if budget is None else str(budget.budget),
        budget_of=None if budget is None else budget.policy,
        budget_pods=None if budget is None else budget.pods,
        share=None if budget is None else str(budget.share),
        marked_by=None if proxy is None else f"{proxy.title} ({proxy.sign})",
    )
