{{/* The service's values: defaults.yaml, then services/<service>.yaml, then what was given. */}}
{{- define "esp-service.config" -}}
{{- $service := .Values.service -}}
{{- $file := printf "services/%s.yaml" $service -}}
{{- $given := omit .Values "global" -}}
{{- $config := mergeOverwrite (.Files.Get "defaults.yaml" | fromYaml) (.Files.Get $file | fromYaml) $given -}}
{{- /* A storage account by its URL is opened with the pod's identity, so that there is no such secret. */ -}}
{{- if $config.settings.blob_account_url }}{{ $_ := unset $config.secret.keys "blob_connection_string" }}{{ end -}}
{{- $roles := dict -}}
{{- range $name, $role := $config.roles -}}
{{- $role := mergeOverwrite (deepCopy $config.roleDefaults) (dict "args" (list $name)) $role -}}
{{- if and $config.settings.lanes $role.autoscaling.queues -}}
{{- $_ := set $role.autoscaling "queues" (int $config.settings.lanes) -}}
{{- if not (dig "roles" $name "autoscaling" "max" 0 $given) -}}
{{- $_ := set $role.autoscaling "max" (int $config.settings.lanes) -}}
{{- end -}}
{{- end -}}
{{- if $role.enabled -}}
{{- include "esp-service.checkRole" (dict "service" $service "name" $name "role" $role) -}}
{{- $_ := set $roles $name $role -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "roles" $roles -}}
{{- toYaml $config -}}
{{- end }}

{{/* Refuse what no schema can: limits that depend on each other. */}}
{{- define "esp-service.checkRole" -}}
{{- $place := printf "%s.roles.%s" .service .name -}}
{{- $auto := .role.autoscaling -}}
{{- if and .role.single (ne $auto.kind "none") -}}
{{- fail (printf "%s: a single role cannot have autoscaling.kind %s; set single: false or kind: none" $place $auto.kind) -}}
{{- end -}}
{{- if ne $auto.kind "none" -}}
{{- if gt (int $auto.min) (int $auto.max) -}}
{{- fail (printf "%s.autoscaling: min %d is above max %d" $place (int $auto.min) (int $auto.max)) -}}
{{- end -}}
{{- if and $auto.queues (gt (int $auto.max) (int $auto.queues)) -}}
{{- fail (printf "%s.autoscaling: max %d is above the number of queues, %d: each queue has one consumer" $place (int $auto.max) (int $auto.queues)) -}}
{{- end -}}
{{- end -}}
{{- if le (int .role.terminationGracePeriodSeconds) (int .role.shutdownDelaySeconds) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds must be above shutdownDelaySeconds" $place) -}}
{{- end -}}
{{- end }}

{{/* A value as a setting is written: whole numbers without an exponent. */}}
{{- define "esp-service.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end }}
