{{/* Names and labels. */}}

{{- define "flotilla.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that a StatefulSet's revision label (name, dash, hash) still is a label. */}}
{{- define "flotilla.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "flotilla.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: {{ include "flotilla.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "flotilla.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "flotilla.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "flotilla.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Port of the API: a router's, or the one process's. */}}
{{- define "flotilla.apiPort" -}}
{{- ternary 15010 15002 (eq .Values.tier "cluster") -}}
{{- end -}}

{{- define "flotilla.apiComponent" -}}
{{- ternary "router" "node" (eq .Values.tier "cluster") -}}
{{- end -}}

{{/* Shard nodes that newcomers and routers ask first: always the same ones, so that scaling changes no other pod. */}}
{{- define "flotilla.firstShards" -}}
{{- $full := include "flotilla.fullname" . -}}
{{- $hosts := list -}}
{{- range $i := until (min 3 (int .Values.shard.replicas) | int) -}}
{{- $hosts = append $hosts (printf "%s-shard-%d.%s-shard.%s.svc.%s" $full $i $full $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- $hosts | join " " -}}
{{- end -}}
