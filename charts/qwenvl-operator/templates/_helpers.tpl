{{- define "qwenvl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "qwenvl.fullname" -}}
{{- $name := include "qwenvl.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "qwenvl.serviceAccountName" -}}
{{- default (include "qwenvl.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "qwenvl.selectorLabels" -}}
app.kubernetes.io/name: {{ include "qwenvl.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "qwenvl.labels" -}}
{{ include "qwenvl.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "qwenvl.image" -}}
{{- default (printf "qwenvl-operator:%s" .Chart.AppVersion) .Values.image.reference }}
{{- end }}

{{- define "qwenvl.runtimeImage" -}}
{{- default (printf "qwenvl-runtime:%s" .Chart.AppVersion) .Values.runtimeImage }}
{{- end }}

{{- /* What the operator does to the objects of a namespace. Secrets are not among them: pods name theirs by themselves. */ -}}
{{- define "qwenvl.namespacedRules" -}}
- apiGroups: [qwenvl.io]
  resources: [qwenvldeployments]
  verbs: [get, list, watch]
- apiGroups: [qwenvl.io]
  resources: [qwenvldeployments/status]
  verbs: [patch]
# Children block the deletion of their owner (foreground deletion); OpenShift lets only those do so who may do this.
- apiGroups: [qwenvl.io]
  resources: [qwenvldeployments/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [serviceaccounts, configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  # One that has a broken GPU is replaced.
  verbs: [get, list, watch, delete]
# The readiness gate of the runtime pods.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# Why a node cannot mount a pod's volumes is said in Events alone.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]
{{- end }}
