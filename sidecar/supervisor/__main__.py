"""``python -m sidecar.supervisor COMMAND ...``"""

from sidecar.supervisor.program import main

if __name__ == "__main__":
    main()
