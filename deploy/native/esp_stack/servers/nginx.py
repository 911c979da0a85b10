"""nginx: the platform's one HTTP door."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
  server_tokens off;
  client_max_body_size 4m;
  client_body_temp_path {home}/client_body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  default_type application/problem+json;

{access_log}

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
    limit_req zone=address burst={burst} nodelay;

{locations}
    location / {{ return 404; }}

{problems}
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

HSTS = "max-age=31536000"
PER_MINUTE, BURST = 1000, 200
"""What one address may ask: requests a minute, and how many of them at once."""
READINGS_PER_MINUTE, READINGS_BURST = 60_000, 2000
"""What one address may post: machines behind one address come through the same door."""
STREAMS = 100
"""Live streams that one address may have open: an office of people, and not all places of a process."""

# nginx takes no header of the server into a location that sets one of its own, so each location sets all of
# them. An empty value removes what the client sent: only nginx says where a request comes from.
LOCATION = """\
    location {match} {{
{limits}      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection {connection};
      proxy_set_header Upgrade {upgrade};
      proxy_set_header X-Request-ID $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host "";
      proxy_set_header X-Forwarded-Port "";
      proxy_set_header X-Real-IP "";
      proxy_set_header Forwarded "";
      add_header Strict-Transport-Security "{hsts}" always;
      proxy_pass http://{service};
    }}"""


@dataclass(frozen=True)
class Location:
    """Requests that `service` answers; `match`: as nginx writes it; `limits`: directives of this one."""

    match: str
    service: str
    limits: tuple[str, ...] = ()
    is_stream: bool = False

    def text(self) -> str:
        """Return the location as nginx reads it."""
        return LOCATION.format(
            match=self.match,
            limits="".join(f"      {limit};\n" for limit in self.limits),
            connection="$connection_upgrade" if self.is_stream else '""',
            upgrade="$http_upgrade" if self.is_stream else '""',
            hsts=HSTS,
            service=self.service,
        )


LOCATIONS = (
    Location("= /api/v1/telemetry", "ingest", (f"limit_req zone=readings burst={READINGS_BURST} nodelay",)),
    Location(
        "= /api/v1/live",
        "diagnostics",
        (f"limit_conn streams {STREAMS}", "proxy_read_timeout 1h"),
        is_stream=True,
    ),
    # Quoted, because the braces of a pattern would be nginx's own.
    *(Location(f'~ "{pattern}"', name) for name, pattern in ROUTES.items()),
    Location("/api/v1/", "ingest"),
    Location("/health/", "ingest"),
    Location("~ ^/(console/.*)?$", "diagnostics"),
)


@dataclass(frozen=True)
class Problem:
    """What nginx answers itself: `causes` are the statuses it has for it, `status` is the one it sends."""

    status: int
    title: str
    detail: str
    causes: tuple[int, ...] = ()
    retry_after_s: int | None = None

    def text(self) -> str:
        """Return the answer, and when it is given, as nginx reads it."""
        body = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error_id": "$request_id",
            "code": f"edge-{self.status}",
        }
        retry = f"\n      add_header Retry-After {self.retry_after_s} always;" if self.retry_after_s else ""
        causes = " ".join(map(str, self.causes or (self.status,)))
        place = f"/.problem/{self.status}-{self.title.lower().replace(' ', '-')}"
        return PROBLEM.format(
            causes=causes, status=self.status, place=place, hsts=HSTS, retry=retry, body=json.dumps(body)
        )


# Not a named location: nginx cannot redirect to one from a request whose path it could not read.
PROBLEM = """\
    error_page {causes} ={status} {place};
    location = {place} {{
      internal;
      add_header Strict-Transport-Security "{hsts}" always;
      add_header X-Content-Type-Options nosniff always;
      add_header Cache-Control no-store always;
      add_header Content-Security-Policy "default-src 'none'; frame-ancestors 'none'" always;
      add_header Referrer-Policy no-referrer always;
      add_header X-Frame-Options DENY always;
      add_header X-Request-ID $request_id always;{retry}
      return {status} '{body}';
    }}"""

PROBLEMS = (
    Problem(400, "Bad Request", "The request is not valid HTTP."),
    Problem(400, "Speak https", "This port speaks https only.", (497,)),
    Problem(403, "Forbidden", "Access is refused."),
    Problem(404, "Not Found", "Nothing is served at this path."),
    Problem(405, "Method Not Allowed", "No path takes this method."),
    Problem(408, "Request Timeout", "The request was not complete in time."),
    Problem(411, "Length Required", "The request needs a Content-Length."),
    Problem(412, "Precondition Failed", "A precondition of the request is not met."),
    Problem(413, "Content Too Large", "A body may have 4 MiB: send fewer readings in a request."),
    Problem(414, "URI Too Long", "The path with its query is too long."),
    Problem(415, "Unsupported Media Type", "The content type is not supported."),
    Problem(416, "Range Not Satisfiable", "The range asked for does not exist."),
    Problem(421, "Misdirected Request", "This server does not answer for that host name."),
    Problem(
        429,
        "Too Many Requests",
        "This address has sent more requests than are let through, or has too many live streams open.",
        retry_after_s=1,
    ),
    Problem(431, "Request Header Fields Too Large", "The headers of the request are too large.", (494,)),
    Problem(500, "Internal Server Error", "nginx could not handle the request; its log says why."),
    Problem(501, "Not Implemented", "The transfer encoding is not supported."),
    Problem(
        503,
        "Service Unavailable",
        "The service for this path does not answer; it may be starting.",
        (502, 503, 504),
        retry_after_s=2,
    ),
    Problem(505, "HTTP Version Not Supported", "This version of HTTP is not supported."),
)
"""Every answer of nginx's own."""

# One object a request, with the fields of an audit record, and without the query, which may hold a ticket.
# What an upstream answered has no empty time of its header; everything else nginx answered itself.
ACCESS_LOG = """\
  map $request_uri $logged_path {{
    default "";
    "~^/broker/" "/broker/";
    "~^(?<without_query>[^?]{{0,300}})" $without_query;
  }}
  map $upstream_header_time $answered_by {{
    default service;
    "" nginx;
    "~^[-, :]+$" nginx;
  }}
  map $status $logged_outcome {{
    default failed;
    "~^[123]" success;
    "~^(401|403|429)$" denied;
  }}
  map "$answered_by $status" $refused {{
    default 0;
    "nginx 499" 0;
    "~^nginx [45]" 1;
  }}
  log_format access escape=json '{{"time":"$time_iso8601","service":"edge","actor_id":null,'
    '"actor_kind":"anonymous","action":"$request_method","object":"$logged_path",'
    '"outcome":"$logged_outcome","status":"$status","source_address":"$remote_addr",'
    '"trace_id":"$request_id","answered_by":"$answered_by","seconds":"$request_time",'
    '"bytes_in":"$request_length","bytes_out":"$bytes_sent"}}';
  access_log {file} access buffer=32k flush=1s;
"""
REFUSALS = """  access_log syslog:server=unix:{socket},nohostname,tag=edge access if=$refused;
"""
LARGEST_ACCESS_LOG_BYTES = 20_000_000
ACCESS_LOGS_KEPT = 5


def access_log_is_large(home: Path) -> bool:
    """Return whether it is time for a new access log."""
    log = home / "access.log"
    return log.exists() and log.stat().st_size >= LARGEST_ACCESS_LOG_BYTES


def rotate_access_log(home: Path, process_id: int) -> None:
    """Have the nginx of `process_id` begin a new access log, keeping the last ones."""
    log = home / "access.log"
    for number in range(ACCESS_LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"access.log.{number}")
        if older.exists():
            older.replace(log.with_name(f"access.log.{number + 1}"))
    log.replace(log.with_name("access.log.1"))
    # nginx writes to the renamed file until it opens its logs again.
    os.kill(process_id, signal.SIGUSR1)


class Nginx(Server):
    """The reverse proxy in front of the services' HTTP APIs: https only, TLS 1.3 only.

    `apis`: the port of each service's API, by the service's name.
    `refusals`: the socket of who counts what nginx refuses; it need not be there.
    """

    name = "nginx"
    data_remedy = "move {home} away: nginx keeps no data"

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        apis: Mapping[str, int],
        tls: Tls,
        refusals: Path | None = None,
    ) -> None:
        super().__init__(home, account("www-data"))
        self._refusals = refusals
        self.port = port or free_port()
        self.apis = apis
        self.tls = tls

    @property
    def url(self) -> str:
        """Base URL of the platform's HTTP API."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def access_log(self) -> Path:
        """The file with one line a request."""
        return self.home / "access.log"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("nginx"), "-e", "stderr", "-c", str(self.home / "nginx.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write nginx.conf."""
        access_log = ACCESS_LOG.format(file=self.access_log)
        if self._refusals:
            access_log += REFUSALS.format(socket=self._refusals)
        text = CONFIGURATION.format(
            home=self.home,
            port=self.port,
            access_log=access_log,
            upstreams="\n".join(UPSTREAM.format(name=name, port=port) for name, port in self.apis.items()),
            locations="\n".join(location.text() for location in LOCATIONS),
            problems="\n".join(problem.text() for problem in PROBLEMS),
            tls=self.tls,
            per_minute=PER_MINUTE,
            burst=BURST,
            readings_per_minute=READINGS_PER_MINUTE,
        )
        private_file(self.home / "nginx.conf", text, self.user)

    def check(self) -> None:
        """Raise unless nginx itself answers, whatever is behind it."""
        answer = httpx.get(f"{self.url}/nothing", timeout=2, verify=self.tls.client_context())
        if answer.status_code != httpx.codes.NOT_FOUND:
            raise ConnectionError(f"{self.url} is not answered by nginx")
