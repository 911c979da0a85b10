{{/* Which key of the Secret each secret setting is. A Job has only its own. Arguments: config, role, job. */}}
{{- define "esp-service.secretKeys" -}}
{{- .job | default false | ternary .role.secretKeys (merge (dict) .role.secretKeys .config.secret.keys) | toYaml -}}
{{- end }}

{{/* Environment of a role. Arguments: root, config, role, name. Secrets are file names, never values. */}}
{{- define "esp-service.environment" -}}
{{- $global := .root.Values.global -}}
{{- $prefix := printf "ESP_%s" (upper .config.service) -}}
{{- $settings := dict "metrics_host" "0.0.0.0" "metrics_port" 9000 "shutdown_delay_s" .role.shutdownDelaySeconds -}}
{{- if .role.http -}}
{{- $_ := merge $settings (dict "http_host" "0.0.0.0" "http_port" 8000) -}}
{{- with $global.trustedProxies }}{{ $_ := set $settings "trusted_proxies" . }}{{ end -}}
{{- end -}}
{{- with $global.otelEndpoint }}{{ $_ := set $settings "otel_endpoint" . }}{{ end -}}
{{- if $global.ca.secret }}{{ $_ := set $settings "tls_ca_file" "/etc/esp/ca/ca.crt" }}{{ end -}}
{{- range $name, $_folder := .role.folders }}{{ $_ := set $settings $name (printf "/var/lib/esp/%s" $name) }}{{ end -}}
{{- $settings = mergeOverwrite $settings .config.settings .role.settings -}}
- {name: HOME, value: /tmp}
- {name: ESP_ACTOR, value: {{ printf "%s/%s" .root.Release.Name .name | quote }}}
{{- range $name, $value := $settings }}
- {name: {{ $prefix }}_{{ upper $name }}, value: {{ include "esp-service.scalar" $value | quote }}}
{{- end }}
{{- range $name, $_key := include "esp-service.secretKeys" . | fromYaml }}
- {name: {{ $prefix }}_{{ upper $name }}_FILE, value: /run/secrets/esp/{{ $name }}}
{{- end }}
{{- with $global.vault.url }}
- {name: ESP_VAULT_URL, value: {{ . | quote }}}
{{- if eq $global.vault.auth "jwt" }}
- {name: ESP_VAULT_JWT_FILE, value: /run/secrets/vault/token}
- {name: ESP_VAULT_JWT_ROLE, value: {{ $.config.service }}{{ hasSuffix "_owner" $.role.databaseRole | ternary "-owner" "" }}}
- {name: ESP_VAULT_JWT_MOUNT, value: {{ $global.vault.jwt.mount }}}
{{- else }}
- {name: ESP_VAULT_ROLE_ID_FILE, value: /run/secrets/esp/vault_role_id}
- {name: ESP_VAULT_SECRET_ID_FILE, value: /run/secrets/esp/vault_secret_id}
{{- end }}
- {name: ESP_VAULT_DATABASE_ROLE, value: {{ $.role.databaseRole }}}
{{- if $global.ca.secret }}
- {name: ESP_VAULT_CA_FILE, value: /etc/esp/ca/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{/* How services log in to Vault: approle, jwt, or nothing without Vault. */}}
{{- define "esp-service.vaultAuth" -}}
{{- if .Values.global.vault.url }}{{ .Values.global.vault.auth }}{{ end -}}
{{- end }}

{{/* Volumes of a role. Arguments: root, config, role, name. */}}
{{- define "esp-service.volumes" -}}
{{- $owner := hasSuffix "_owner" .role.databaseRole | ternary "owner_" "" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .role.tmpSize }}}
- name: secrets
  secret:
    secretName: {{ .config.secret.name | default (printf "esp-%s" .config.service) }}
    defaultMode: 0440
    items:
      {{- range $name, $key := include "esp-service.secretKeys" . | fromYaml }}
      - {key: {{ $key }}, path: {{ $name }}}
      {{- end }}
      {{- if eq (include "esp-service.vaultAuth" .root) "approle" }}
      - {key: {{ $owner }}vault_role_id, path: vault_role_id}
      - {key: {{ $owner }}vault_secret_id, path: vault_secret_id}
      {{- end }}
{{- if eq (include "esp-service.vaultAuth" .root) "jwt" }}
# The kubelet replaces the token in time; it is read at each login.
- name: vault-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, audience: {{ .root.Values.global.vault.jwt.audience }}, expirationSeconds: 3600}
{{- end }}
{{- with .root.Values.global.ca }}
{{- if .secret }}
- name: ca
  secret:
    secretName: {{ .secret }}
    defaultMode: 0444
    items: [{key: {{ .key }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- range $setting, $folder := .role.folders }}
- name: {{ $setting | replace "_" "-" }}
  {{- if $folder.claim }}
  persistentVolumeClaim: {claimName: {{ include "esp-service.fullname" $.root }}-{{ $.name }}-{{ $setting | replace "_" "-" }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $folder.size }}}
  {{- end }}
{{- end }}
{{- end }}

{{/* Metadata and specification of a pod. Arguments: root, config, role, name; job: true for a Job. */}}
{{- define "esp-service.pod" -}}
metadata:
  labels:
    {{- include "esp-service.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
    {{- if .config.serviceAccount.azureClientId }}
    azure.workload.identity/use: "true"
    {{- end }}
  {{- with .role.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "esp-service.account" (dict "root" .root "databaseRole" .role.databaseRole) }}
  automountServiceAccountToken: false
  # A Service named esp-… would become variables that look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int .role.terminationGracePeriodSeconds }}
  {{- if .job }}
  restartPolicy: Never
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .root.Values.global.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .role.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .role.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .role.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if not (or .role.single .job) }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "esp-service.selector" $.root | nindent 10 }}
          app.kubernetes.io/component: {{ $.name }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "esp-service.image" . }}
      imagePullPolicy: {{ .root.Values.global.image.pullPolicy }}
      args: {{ .role.args | toJson }}
      env:
        {{- include "esp-service.environment" . | nindent 8 }}
      {{- if not .job }}
      ports:
        {{- if .role.http }}
        - {name: http, containerPort: 8000}
        {{- end }}
        - {name: metrics, containerPort: 9000}
      startupProbe:
        httpGet: {path: /health/startup, port: metrics}
        periodSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /health/live, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /health/ready, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- end }}
      resources: {{- toYaml .role.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: secrets, mountPath: /run/secrets/esp, readOnly: true}
        {{- if eq (include "esp-service.vaultAuth" .root) "jwt" }}
        - {name: vault-token, mountPath: /run/secrets/vault, readOnly: true}
        {{- end }}
        {{- if .root.Values.global.ca.secret }}
        - {name: ca, mountPath: /etc/esp/ca, readOnly: true}
        {{- end }}
        {{- range $setting, $_folder := .role.folders }}
        - {name: {{ $setting | replace "_" "-" }}, mountPath: /var/lib/esp/{{ $setting }}}
        {{- end }}
  volumes:
    {{- include "esp-service.volumes" . | nindent 4 }}
{{- end }}
