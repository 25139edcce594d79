"""The control plane's pages in Chromium, with thousands of simulated agents: how soon they are there, and the cost."""
