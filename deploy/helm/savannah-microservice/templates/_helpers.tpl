{{- define "savannah.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "savannah.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Release.Name (include "savannah.name" .) -}}
{{- include "savannah.name" . | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "savannah.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "savannah.selector" -}}
app.kubernetes.io/name: {{ include "savannah.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The image's tag. One of digits alone is a number in a file of values, and then a float. */}}
{{- define "savannah.version" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if kindIs "float64" $tag }}{{ int64 $tag }}{{ else }}{{ $tag }}{{ end -}}
{{- end -}}

{{- define "savannah.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "savannah.selector" . }}
app.kubernetes.io/version: {{ include "savannah.version" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "savannah.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "savannah.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "savannah.secret" -}}
{{- default (include "savannah.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{/* Whether texts can be sent at all: without a key they wait. */}}
{{- define "savannah.sends" -}}
{{- if or .Values.secrets.existingSecret .Values.secrets.africasTalkingApiKey -}}true{{- end -}}
{{- end -}}

{{- define "savannah.hasRedis" -}}
{{- if .Values.secrets.existingSecret -}}
{{- if .Values.secrets.existingSecretHasRedis -}}true{{- end -}}
{{- else if .Values.secrets.redisUrl -}}true{{- end -}}
{{- end -}}

{{/* Whether workers of their own send the texts. */}}
{{- define "savannah.hasWorkers" -}}
{{- if and (include "savannah.sends" .) (include "savannah.hasRedis" .) -}}true{{- end -}}
{{- end -}}

{{/* The address callers use: as `config` says, or of the first host that is no wildcard. */}}
{{- define "savannah.publicUrl" -}}
{{- $url := .Values.config.PUBLIC_URL | default "" -}}
{{- range .Values.ingress.hosts -}}
{{- if not (or $url (hasPrefix "*" .host)) }}{{ $url = printf "https://%s" .host }}{{ end -}}
{{- end -}}
{{- required "config.PUBLIC_URL must be set where every one of ingress.hosts is a wildcard" $url -}}
{{- end -}}

{{/* Settings that are no secrets: what the ingress implies, and what `config` says. */}}
{{- define "savannah.config" -}}
{{- $hosts := list -}}
{{- range .Values.ingress.hosts }}{{ $hosts = append $hosts (trimPrefix "*" .host) }}{{ end -}}
{{- $defaults := dict
  "ALLOWED_HOSTS" (join "," $hosts)
  "PUBLIC_URL" (include "savannah.publicUrl" .)
  "TRUSTED_PROXIES" (join "," .Values.trustedProxies) -}}
{{- range $name, $value := merge (deepCopy .Values.config) $defaults }}
{{ $name }}: {{ kindIs "float64" $value | ternary (int64 $value) $value | toString | quote }}
{{- end }}
{{- end -}}

{{- define "savannah.secretData" -}}
{{- with .Values.secrets }}
SECRET_KEY: {{ required "secrets.secretKey must be set, or secrets.existingSecret" .secretKey | quote }}
DATABASE_URL: {{ required "secrets.databaseUrl must be set, or secrets.existingSecret" .databaseUrl | quote }}
{{- with .redisUrl }}
REDIS_URL: {{ . | quote }}
{{- end }}
{{- with .databaseReplicaUrls }}
DATABASE_REPLICA_URLS: {{ . | quote }}
{{- end }}
{{- with .africasTalkingApiKey }}
AFRICAS_TALKING_API_KEY: {{ . | quote }}
{{- end }}
{{- with .sentryDsn }}
SENTRY_DSN: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The label whose value Prometheus takes as `job`: the alert rules know the two parts by it, whatever
the release is called. Argument: part.
*/}}
{{- define "savannah.job" -}}
prometheus-job: {{ eq .part "web" | ternary "savannah" (printf "savannah-%s" .part) }}
{{- end -}}

{{/* How Prometheus finds a part. Arguments: context, part, port. */}}
{{- define "savannah.serviceMonitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "savannah.fullname" .context }}-{{ .part }}
  labels:
    {{- include "savannah.labels" .context | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
    {{- with .context.Values.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  jobLabel: prometheus-job
  selector:
    matchLabels:
      {{- include "savannah.selector" .context | nindent 6 }}
      app.kubernetes.io/component: {{ .part }}
  endpoints:
    - port: {{ .port }}
      path: /metrics
      interval: {{ .context.Values.serviceMonitor.interval }}
{{- end -}}

{{/* The port of an address. Arguments: url, its scheme may be missing; usual, where it names none. */}}
{{- define "savannah.port" -}}
{{- $server := regexFind "^[^/?#]*" (regexReplaceAll "^[a-z0-9+]+://([^/?#]*@)?" .url "") -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $server) | default .usual -}}
{{- end -}}

{{- define "savannah.webPort" -}}
{{- include "savannah.port" (dict "url" . "usual" (hasPrefix "http:" . | ternary "80" "443")) -}}
{{- end -}}

{{/*
Where a pod may go: `egressPorts`, and the ports that the settings name, as far as they are known
here. A migration goes to the database alone. Arguments: context, part.
*/}}
{{- define "savannah.egress" -}}
{{- $values := .context.Values -}}
{{- $secrets := ternary $values.secrets dict (empty $values.secrets.existingSecret) -}}
{{- $database := $secrets.databaseUrl -}}
{{- if eq .part "migrate" -}}
{{- $database = ternary ($secrets.migrationDatabaseUrl | default $database) "" (empty $values.secrets.existingMigrationSecret) -}}
{{- end -}}
{{- $ports := list -}}
{{- if or (ne .part "migrate") (not $database) -}}
{{- $ports = $values.networkPolicy.egressPorts -}}
{{- end -}}
{{- with $database -}}
{{- $ports = append $ports (include "savannah.port" (dict "url" . "usual" "5432")) -}}
{{- end -}}
{{- if ne .part "migrate" -}}
{{- range compact (splitList "," ($secrets.databaseReplicaUrls | default "")) -}}
{{- $ports = append $ports (include "savannah.port" (dict "url" (trim .) "usual" "5432")) -}}
{{- end -}}
{{- with $secrets.redisUrl -}}
{{- range splitList "," (regexReplaceAll "^[a-z0-9+]+://([^/?#]*@)?" . "") -}}
{{- $ports = append $ports (include "savannah.port" (dict "url" . "usual" "6379")) -}}
{{- end -}}
{{- end -}}
{{- range compact (list $secrets.sentryDsn $values.config.OTEL_EXPORTER_OTLP_ENDPOINT $values.config.AFRICAS_TALKING_BASE_URL) -}}
{{- $ports = append $ports (include "savannah.webPort" .) -}}
{{- end -}}
{{- end -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    {{- $numbers := list -}}
    {{- range $ports }}{{ $numbers = append $numbers (int .) }}{{ end -}}
    {{- range $numbers | uniq }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{/* Whom a network policy is about. Arguments: context, part. */}}
{{- define "savannah.policyHead" -}}
podSelector:
  matchLabels:
    {{- include "savannah.selector" .context | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
policyTypes: [Ingress, Egress]
{{- end -}}

{{/* The pod of `helm test`, which no other selector may find. */}}
{{- define "savannah.testSelector" -}}
app.kubernetes.io/name: {{ include "savannah.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The level "restricted" of the Pod Security Standards. */}}
{{- define "savannah.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "savannah.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "savannah.image" -}}
{{ .Values.image.repository }}:{{ include "savannah.version" . }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* What every container of ours has. Arguments: context, config, secret. */}}
{{- define "savannah.container" -}}
image: {{ include "savannah.image" .context | quote }}
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ .config }}
  - secretRef:
      name: {{ .secret }}
{{- if not (include "savannah.hasRedis" .context) }}
env:
  # Not one of a Secret of yours either: jobs there would wait for workers that there are not.
  - {name: REDIS_URL, value: ""}
{{- end }}
securityContext:
  {{- include "savannah.containerSecurity" .context | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: data
    mountPath: /var/lib/savannah
{{- if .context.Values.authorities.configMap }}
  - name: authorities
    mountPath: /etc/savannah/authorities
    readOnly: true
{{- end }}
{{- end -}}

{{- define "savannah.volumes" -}}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 64Mi
- name: data
  emptyDir:
    sizeLimit: 16Mi
{{- with .Values.authorities.configMap }}
- name: authorities
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* What every pod of ours has. Arguments: context, part, serviceAccount. */}}
{{- define "savannah.pod" -}}
serviceAccountName: {{ .serviceAccount }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "savannah.podSecurity" .context | nindent 2 }}
volumes:
  {{- include "savannah.volumes" .context | nindent 2 }}
{{- with .context.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .context.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .context.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .context.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .context.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .part "migrate" }}
{{- if kindIs "invalid" .context.Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "savannah.selector" $.context | nindent 8 }}
        app.kubernetes.io/component: {{ $.part }}
  {{- end }}
{{- else if .context.Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .context.Values.topologySpreadConstraints | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
