{{- define "headrace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "headrace.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headrace.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "headrace.natsName" -}}
{{- printf "%s-nats" (.Release.Name | trunc 50 | trimSuffix "-") -}}
{{- end -}}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ include "headrace.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "headrace.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "headrace.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "headrace.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The operator's own NATS. What cannot work is refused here, with what to do about it. */}}
{{- define "headrace.natsUrl" -}}
{{- $url := .Values.natsConnection.url -}}
{{- if and .Values.nats.enabled $url -}}
{{- fail "natsConnection.url and nats.enabled are both set: give the url of your own NATS, or let the chart install one." -}}
{{- else if .Values.nats.enabled -}}
{{- printf "nats://%s.%s.svc:4222" (include "headrace.natsName" .) .Release.Namespace -}}
{{- else if not $url -}}
{{- fail "natsConnection.url is needed, such as nats://nats.nats.svc:4222. To try Headrace with a NATS server of this chart, set nats.enabled=true instead." -}}
{{- else -}}
{{- include "headrace.checkedUrl" (dict "url" $url "key" "natsConnection.url") -}}
{{- end -}}
{{- end -}}

{{- define "headrace.workersNatsUrl" -}}
{{- if .Values.natsConnection.workersUrl -}}
{{- include "headrace.checkedUrl" (dict "url" .Values.natsConnection.workersUrl "key" "natsConnection.workersUrl") -}}
{{- else -}}
{{- include "headrace.natsUrl" . -}}
{{- end -}}
{{- end -}}

{{/* A url stands in the pod's spec, which more people may read than a Secret. */}}
{{- define "headrace.checkedUrl" -}}
{{- range splitList "," .url -}}
{{- if contains "@" . -}}
{{- fail (printf "%s must not contain a user, password or token: put the credentials in a Secret (natsConnection.credentialsSecret)." $.key) -}}
{{- else if not (regexMatch "^(nats|tls)://[^/\\s]+$" (trim .)) -}}
{{- fail (printf "%s: %q is not the url of a NATS server; it looks like nats://host:4222 or tls://host:4222." $.key .) -}}
{{- end -}}
{{- end -}}
{{- .url -}}
{{- end -}}

{{- define "headrace.defaultNatsNamespaces" -}}
{{- $entries := .Values.defaultNats.namespaces -}}
{{- if kindIs "invalid" $entries -}}
{{- $entries = ternary (list (dict "namespace" "*" "queues" "*")) list .Values.nats.enabled -}}
{{- end -}}
{{- $out := list -}}
{{- range $entries -}}
{{- $out = append $out (printf "%s=%s" .namespace .queues) -}}
{{- end -}}
{{- join "," $out -}}
{{- end -}}

{{- define "headrace.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headrace.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The operator's rights on what it watches: a Role in each namespace, or one ClusterRole. */}}
{{- define "headrace.rules" -}}
- apiGroups: [headrace.dev]
  resources: [workerpools]
  verbs: [get, list, watch]
- apiGroups: [headrace.dev]
  resources: [workerpools/status]
  verbs: [get, patch]
- apiGroups: [headrace.dev]
  resources: [workerpools/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [get, patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list{{ if .Values.podPatch }}, patch{{ end }}]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
{{- if .Values.secrets.read }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
{{- end -}}

{{- define "headrace.testImage" -}}
{{- default (printf "headrace/worker:%s" .Chart.AppVersion) .Values.test.image -}}
{{- end -}}

{{/* Policies are cluster-scoped, what they say holds where this operator serves. */}}
{{- define "headrace.policyNamespaces" -}}
{{- with .Values.watchNamespaces -}}
matchResources:
  namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values: {{- uniq . | toYaml | nindent 10 }}
{{- end -}}
{{- end -}}
