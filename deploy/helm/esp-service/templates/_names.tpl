{{/* esp-ingest for release `esp` (through the umbrella chart) as well as for release `esp-ingest`. */}}
{{- define "esp-service.fullname" -}}
{{- if hasSuffix .Values.service .Release.Name -}}
{{ .Release.Name }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Values.service | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* ServiceAccount of a role: the owner of the service's schema, or everything else. Arguments: root, databaseRole. */}}
{{- define "esp-service.account" -}}
{{ include "esp-service.fullname" .root }}{{ hasSuffix "_owner" .databaseRole | ternary "-owner" "" }}
{{- end }}

{{- define "esp-service.selector" -}}
app.kubernetes.io/name: esp-{{ .Values.service }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "esp-service.labels" -}}
{{ include "esp-service.selector" . }}
app.kubernetes.io/part-of: esp
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: esp-service-{{ .Chart.Version }}
{{- end }}

{{/* Arguments: root, config. */}}
{{- define "esp-service.image" -}}
{{- $global := .root.Values.global.image -}}
{{- $name := .config.image.repository | default (printf "esp-%s" .config.service) -}}
{{- $path := $global.registry | empty | ternary $name (printf "%s/%s" $global.registry $name) -}}
{{- if .config.image.digest -}}
{{ $path }}@{{ .config.image.digest }}
{{- else -}}
{{ $path }}:{{ .config.image.tag | default $global.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}
