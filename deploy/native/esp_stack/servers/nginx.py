"""nginx: the platform's one HTTP door."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from esp_stack.certificates import Tls
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server

CONFIGURATION = """\
daemon off;
# A master that is killed leaves its workers holding the port, and nothing could start in its place.
master_process off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  client_max_body_size 4m;
  client_body_temp_path {home}/client_body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  default_type application/problem+json;

  # A burst is let through at once; what comes faster than the rate after it is refused, not delayed.
  limit_req_zone $binary_remote_addr zone=address:10m rate={per_minute}r/m;
  limit_req_zone $binary_remote_addr zone=readings:10m rate={readings_per_minute}r/m;
  limit_req_status 429;
  # A live stream is one request and stays open, so that it is streams that are counted.
  limit_conn_zone $binary_remote_addr zone=streams:10m;
  limit_conn_status 429;

{upstreams}
  map $http_upgrade $connection_upgrade {{
    default upgrade;
    "" "";
  }}

  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {tls.server};
    ssl_certificate_key {tls.server};
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    add_header Strict-Transport-Security "{hsts}" always;
    limit_req zone=address burst={burst} nodelay;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Request-ID $request_id;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;

    location = /api/v1/telemetry {{
      limit_req zone=readings burst={readings_burst} nodelay;
      proxy_pass http://ingest;
    }}
    location = /api/v1/live {{
      limit_conn streams {streams};
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      # A location with headers of its own inherits none of the server's.
      proxy_set_header Host $http_host;
      proxy_set_header X-Request-ID $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 1h;
      proxy_pass http://diagnostics;
    }}
{locations}
    location /api/v1/ {{ proxy_pass http://ingest; }}
    location /health/ {{ proxy_pass http://ingest; }}
    location ~ ^/(console/.*)?$ {{ proxy_pass http://diagnostics; }}
    location / {{ return 404 '{not_found}'; }}

    error_page 413 @too_large;
    error_page 429 @too_many;
    error_page 497 =400 @not_tls;
    error_page 502 504 =503 @unavailable;
    location @too_large {{ return 413 '{too_large}'; }}
    location @not_tls {{ return 400 '{not_tls}'; }}
    location @too_many {{
      add_header Strict-Transport-Security "{hsts}" always;
      add_header Retry-After 1 always;
      return 429 '{too_many}';
    }}
    location @unavailable {{
      add_header Strict-Transport-Security "{hsts}" always;
      add_header Retry-After 2 always;
      return 503 '{unavailable}';
    }}
  }}
}}
"""


OF_A_PUMP = (
    "calibrations|curve|diagnostics|diagnostics-settings|health|kpis|latest|operating-point|rule-overrides"
    "|telemetry|what-if"
)
ROUTES = {
    "auth": "^/api/v1/(auth|users|api-keys|audit)(/|$)",
    "archiver": "^/api/v1/archive(/|$)",
    "backup": "^/api/v1/backups(/|$)",
    "diagnostics": "^/api/v1/((alerts|alert-rules|findings|fleet|live|notifications|rules)(/|$)"
    f"|pumps/[^/]+/({OF_A_PUMP})(/|$)|fields/[^/]+/kpis$)",
}
"""Which service answers which paths; ingest answers the rest of the API, and diagnostics the console."""

UPSTREAM = """\
  upstream {name} {{
    server 127.0.0.1:{port};
    keepalive 64;
  }}"""
# The braces of a pattern would be nginx's own.
LOCATION = '    location ~ "{pattern}" {{ proxy_pass http://{name}; }}'

HSTS = "max-age=31536000"
PER_MINUTE, BURST = 1000, 200
"""What one address may ask: requests a minute, and how many of them at once."""
READINGS_PER_MINUTE, READINGS_BURST = 60_000, 2000
"""What one address may post: machines behind one address come through the same door."""
STREAMS = 70
"""Live streams that one address may have open: an office of people, far below the 300 places of a process."""


def _problem(status: int, title: str) -> str:
    return f'{{"type":"about:blank","title":"{title}","status":{status},"error_id":"$request_id"}}'


class Nginx(Server):
    """The reverse proxy in front of the services' HTTP APIs: https only, TLS 1.3 only.

    `apis`: the port of each service's API, by the service's name.
    """

    name = "nginx"
    data_remedy = "move {home} away: nginx keeps no data"

    def __init__(self, home: Path, *, port: int | None = None, apis: Mapping[str, int], tls: Tls) -> None:
        super().__init__(home, account("www-data"))
        self.port = port or free_port()
        self.apis = apis
        self.tls = tls

    @property
    def url(self) -> str:
        """Base URL of the platform's HTTP API."""
        return f"https://127.0.0.1:{self.port}"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("nginx"), "-e", "stderr", "-c", str(self.home / "nginx.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write nginx.conf."""
        text = CONFIGURATION.format(
            home=self.home,
            port=self.port,
            upstreams="\n".join(UPSTREAM.format(name=name, port=port) for name, port in self.apis.items()),
            locations="\n".join(
                LOCATION.format(name=name, pattern=pattern) for name, pattern in ROUTES.items()
            ),
            tls=self.tls,
            hsts=HSTS,
            per_minute=PER_MINUTE,
            burst=BURST,
            readings_per_minute=READINGS_PER_MINUTE,
            readings_burst=READINGS_BURST,
            streams=STREAMS,
            not_tls=_problem(400, "Speak https"),
            too_many=_problem(429, "Too Many Requests"),
            not_found=_problem(404, "Not Found"),
            too_large=_problem(413, "Content Too Large"),
            unavailable=_problem(503, "Service Unavailable"),
        )
        private_file(self.home / "nginx.conf", text, self.user)

    def check(self) -> None:
        """Raise unless nginx itself answers, whatever is behind it."""
        answer = httpx.get(f"{self.url}/nothing", timeout=2, verify=self.tls.client_context())
        if answer.status_code != httpx.codes.NOT_FOUND:
            raise ConnectionError(f"{self.url} is not answered by nginx")
