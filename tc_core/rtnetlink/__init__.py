"""Links, routes and traffic control by rtnetlink(7): messages without I/O, and the kernel behind them."""
