"""nginx: configuration of the platform's HTTP entry, for loopback ports, Compose and Kubernetes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from esp_platform.files import TlsFiles

_CONFIGURATION: Final = """\
daemon off;
{process}
pid {site.folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  server_tokens off;
  client_max_body_size 4m;
  client_body_temp_path {site.folder}/client_body;
  proxy_temp_path {site.folder}/proxy;
  fastcgi_temp_path {site.folder}/fastcgi;
  uwsgi_temp_path {site.folder}/uwsgi;
  scgi_temp_path {site.folder}/scgi;
  default_type application/problem+json;

{access_log}
{client_address}
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
    listen {site.listen} ssl;
    ssl_certificate {site.tls.certificate};
    ssl_certificate_key {site.tls.key};
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    limit_req zone=address burst={burst} nodelay;

{locations}
    location / {{ return 404; }}

{problems}
  }}
}}
"""


@dataclass(frozen=True)
class Site:
    """What differs between deployments.

    `upstreams`: host:port of each service's API, by the service's name; of several processes with commas
    between. `folder`: where nginx writes.
    `refusals`: address (as `unix:/path` or host:port) of the syslog that takes what nginx refuses.
    `resolver`: DNS server that is asked for the upstreams' addresses while nginx runs; none: asked once, at
    start. `trusted_proxies`: networks whose `X-Forwarded-For` names the client.
    `one_process`: run no master process.
    """

    listen: str
    upstreams: Mapping[str, str]
    tls: TlsFiles
    folder: str
    access_log: str
    refusals: str | None = None
    resolver: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    one_process: bool = False


def configuration(site: Site) -> str:
    """Return nginx.conf."""
    access_log = ACCESS_LOG.format(file=site.access_log)
    if site.refusals:
        access_log += REFUSALS.format(server=site.refusals)
    return _CONFIGURATION.format(
        site=site,
        process=ONE_PROCESS if site.one_process else "worker_processes auto;",
        access_log=access_log,
        client_address=_client_address(site.trusted_proxies),
        upstreams=_upstreams(site),
        locations="\n".join(location.text(site) for location in LOCATIONS),
        problems="\n".join(problem.text() for problem in PROBLEMS),
        per_minute=PER_MINUTE,
        burst=BURST,
        readings_per_minute=READINGS_PER_MINUTE,
    )


# A master that is killed leaves its workers holding the port, and nothing could start in its place.
ONE_PROCESS: Final = "master_process off;"


def _client_address(trusted_proxies: tuple[str, ...]) -> str:
    """Return the directives that take the client's address from trusted proxies."""
    if not trusted_proxies:
        return ""
    lines = [f"set_real_ip_from {network};" for network in trusted_proxies]
    lines += ["real_ip_header X-Forwarded-For;", "real_ip_recursive on;"]
    return "".join(f"  {line}\n" for line in lines)


def _upstreams(site: Site) -> str:
    if site.resolver:
        # Addresses of containers change; a name in a variable is looked up again.
        return f"  resolver {site.resolver} valid=5s ipv6=off;\n"
    return "\n".join(
        UPSTREAM.format(name=name, servers=_servers(addresses.split(",")))
        for name, addresses in site.upstreams.items()
    )


def _servers(addresses: list[str]) -> str:
    # A process that is being replaced refuses connections at once: trying it again costs nothing, while
    # leaving it out for 10 s would have no server left when the next one is replaced.
    options = " max_fails=0" if len(addresses) > 1 else ""
    return "\n".join(f"    server {address}{options};" for address in addresses)


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
{servers}
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
      {target}
    }}"""


@dataclass(frozen=True)
class Location:
    """Requests that `service` answers; `match`: as nginx writes it; `limits`: directives of this one."""

    match: str
    service: str
    limits: tuple[str, ...] = ()
    is_stream: bool = False

    def text(self, site: Site) -> str:
        """Return the location as nginx reads it."""
        target = f"proxy_pass http://{self.service};"
        if site.resolver:
            target = f"set $upstream {site.upstreams[self.service]};\n      proxy_pass http://$upstream;"
        return LOCATION.format(
            match=self.match,
            limits="".join(f"      {limit};\n" for limit in self.limits),
            connection="$connection_upgrade" if self.is_stream else '""',
            upgrade="$http_upgrade" if self.is_stream else '""',
            hsts=HSTS,
            target=target,
        )


LOCATIONS = (
    Location(
        "= /api/v1/telemetry",
        "ingest",
        (
            f"limit_req zone=readings burst={READINGS_BURST} nodelay",
            # While APIs are replaced, a post may meet a connection that a stopping one has just closed, or
            # one that starts and answers 503. Readings are stored once, however often they are sent.
            "proxy_next_upstream error http_503 non_idempotent",
        ),
    ),
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
REFUSALS = """  access_log syslog:server={server},nohostname,tag=edge access if=$refused;
"""
