"""Reconciles an interface with its wanted state: observe, plan, execute, record.

* :mod:`~tc_core.apply.plan` observes once and computes (pure) the steps from the observed to the wanted state.
* :mod:`~tc_core.apply.execute` executes the steps in the kernel and reports.
* :mod:`~tc_core.apply.journal` does so with a history: it records the intent before, and the outcome after.

No state is kept between calls; the kernel's state is the only record. So the next call completes one that failed, and a
call that finds the wanted state changes nothing.
"""
