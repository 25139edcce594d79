"""Bring an interface to what it should have: look, compare, execute, write down.

* :mod:`~tc_core.apply.plan` looks once, and compares (pure): the steps from what is there to what should be.
* :mod:`~tc_core.apply.execute` makes these steps in the kernel, and reports.
* :mod:`~tc_core.apply.journal` does the same with a history: the intention before, the outcome after.

Nothing is remembered between calls; the kernel's own state is the only record. So a call that failed in the middle is
completed by the next one, and a call that finds everything as it should be changes nothing.
"""
