"""The servers the platform runs on, each startable by itself: one module a server."""

from esp_stack.servers.azurite import Azurite
from esp_stack.servers.nginx import Nginx
from esp_stack.servers.openbao import OpenBao
from esp_stack.servers.postgres import Postgres
from esp_stack.servers.rabbitmq import RabbitMQ, RabbitPorts, Vhost
from esp_stack.servers.redis import Redis
from esp_stack.servers.server import Server

__all__ = ["Azurite", "Nginx", "OpenBao", "Postgres", "RabbitMQ", "RabbitPorts", "Redis", "Server", "Vhost"]
