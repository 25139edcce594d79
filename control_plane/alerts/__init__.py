"""Alerts: values are looked at each second, and channels are told what has come of them."""
