"""A policy in force in one network namespace: shaping, rules, detection, routing and step-aside. Knows no process."""
