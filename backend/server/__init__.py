"""The HTTP side: routes, password, body limit, ports, logs, and the server that runs them."""
