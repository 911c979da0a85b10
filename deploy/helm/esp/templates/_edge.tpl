{{- define "esp.edge.selector" -}}
app.kubernetes.io/name: esp-edge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "esp.edge.metadata" -}}
name: {{ .Release.Name }}-edge
namespace: {{ .Release.Namespace }}
labels:
  {{- include "esp.edge.labels" . | nindent 2 }}
{{- end }}

{{- define "esp.edge.labels" -}}
{{ include "esp.edge.selector" . }}
app.kubernetes.io/component: edge
app.kubernetes.io/part-of: esp
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* files/nginx.conf with this release's Services, and the proxies in front of it. */}}
{{- define "esp.edge.configuration" -}}
{{- $text := .Files.Get "files/nginx.conf" | replace "server esp-" (printf "server %s-" .Release.Name) -}}
{{- $text = replace "worker_processes auto;" (printf "worker_processes %d;" (int .Values.edge.workerProcesses)) $text -}}
{{- with .Values.edge.trustedProxies -}}
{{- $lines := list "default_type application/problem+json;" -}}
{{- range . }}{{ $lines = append $lines (printf "  set_real_ip_from %s;" .) }}{{ end -}}
{{- $lines = concat $lines (list "  real_ip_header X-Forwarded-For;" "  real_ip_recursive on;") -}}
{{- $text = replace "default_type application/problem+json;" (join "\n" $lines) $text -}}
{{- end -}}
{{- $text -}}
{{- end }}
