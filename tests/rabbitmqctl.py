"""RabbitMQ's own tool, run on the node of a test."""

import subprocess
from dataclasses import replace

from esp_stack.servers import RabbitMQ


def rabbitmqctl(server: RabbitMQ, *arguments: str) -> None:
    """Run rabbitmqctl on the server's node."""
    node = server.programs()[-1]
    command = replace(node, argv=("/usr/lib/rabbitmq/bin/rabbitmqctl", *arguments)).command()
    subprocess.run(command, env=node.full_environment(), cwd=server.home, check=True, capture_output=True)
