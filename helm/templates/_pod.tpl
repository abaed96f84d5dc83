{{/* What all pods share. Each takes (dict "root" $ "component" NAME "values" VALUES). */}}

{{- define "flotilla.podLabels" -}}
{{ include "flotilla.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "flotilla.podSpec" -}}
serviceAccountName: {{ include "flotilla.serviceAccount" .root }}
# No process talks to Kubernetes.
automountServiceAccountToken: false
# A service's variables (FLOTILLA_..._PORT) must not be taken for settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .root.Values.uid }}
  runAsGroup: {{ .root.Values.gid }}
  fsGroup: {{ .root.Values.gid }}
  # A large volume is not walked at each start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "flotilla.spread" -}}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
{{ toYaml .values.topologySpreadConstraints | indent 2 }}
{{- else }}
  {{- range $key, $when := dict "topology.kubernetes.io/zone" "ScheduleAnyway" "kubernetes.io/hostname" .hosts }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels: {{- include "flotilla.podLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "flotilla.container" -}}
image: {{ include "flotilla.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "flotilla.restricted" . | nindent 2 }}
resources: {{- toYaml .values.resources | nindent 2 }}
{{- end -}}

{{- define "flotilla.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "flotilla.env" -}}
- name: RUST_LOG
  value: {{ .root.Values.log | quote }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "flotilla.memberEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: ZONE
  {{- if .values.zoneLabel }}
  # Empty where the label is missing.
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['{{ .values.zoneLabel }}']"}}
  {{- else }}
  value: ""
  {{- end }}
{{- end -}}

{{/* Whether the pod's ports know who calls and are encrypted; empty if not. */}}
{{- define "flotilla.guarded" -}}
{{- $security := .root.Values.config.security | default dict }}
{{- $tls := $security.tls | default dict }}
{{- if has .component (list "shard" "replica") }}
{{- dig "peer_tls" "cert_file" "" $security }}
{{- else if and $tls.cert_file (or $security.api_keys_file $security.jwt $tls.client_ca_file) }}
{{- $tls.cert_file }}
{{- end }}
{{- end -}}

{{- define "flotilla.insecure" -}}
{{- if not (include "flotilla.guarded" .) }}
- --insecure-bind
{{- end }}
{{- end -}}

{{/* What encrypts the port that is probed; empty if nothing does. */}}
{{- define "flotilla.scheme" -}}
{{- $section := ternary "peer_tls" "tls" (has .component (list "shard" "replica")) }}
{{- ternary "HTTPS" "HTTP" (ne "" (dig $section "cert_file" "" (.root.Values.config.security | default dict))) }}
{{- end -}}

{{- define "flotilla.secret" -}}
{{- ternary .root.Values.security.routerSecret .root.Values.security.nodeSecret (eq .component "router") }}
{{- end -}}

{{/* Certificates that cert-manager makes for the pod, as JSON: by the folder's name, whose. */}}
{{- define "flotilla.certificates" -}}
{{- $of := dict }}
{{- if .root.Values.security.certManager.enabled }}
{{- if has .component (list "router" "node") }}
{{- $of = set $of "api" "api" }}
{{- end }}
{{- if eq .root.Values.tier "cluster" }}
{{- $of = set $of "peer" (ternary "router" "node" (eq .component "router")) }}
{{- end }}
{{- end }}
{{- toJson $of }}
{{- end -}}

{{- define "flotilla.secretMount" -}}
{{- if include "flotilla.secret" . }}
- {name: secrets, mountPath: /etc/flotilla-secrets, readOnly: true}
{{- end }}
{{- range $folder, $of := include "flotilla.certificates" . | fromJson }}
- {name: {{ $folder }}-certificate, mountPath: /etc/flotilla-certificates/{{ $folder }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "flotilla.secretVolume" -}}
{{- with include "flotilla.secret" . }}
- name: secrets
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- range $folder, $of := include "flotilla.certificates" . | fromJson }}
- name: {{ $folder }}-certificate
  secret: {secretName: {{ include "flotilla.fullname" $.root }}-{{ $of }}-tls, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Takes "port" too. Startup and liveness ask the process alone; readiness is joined and serving. */}}
{{- define "flotilla.probes" -}}
# Until it is a member and its log is read: 15 minutes. A new node looks for one for 10, and says why it gave up.
startupProbe:
  httpGet: {path: /livez, port: {{ .port }}, scheme: {{ include "flotilla.scheme" . }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 180
# Depends on no other pod: a cluster without a quorum must not be restarted into a worse state.
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}, scheme: {{ include "flotilla.scheme" . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}, scheme: {{ include "flotilla.scheme" . }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* Endpoints lose the pod before the process is told to stop. The drain itself is SIGTERM's: not serving, leaderships handed
     over, calls finished, log flushed. No data moves. */}}
{{- define "flotilla.lifecycle" -}}
lifecycle:
  preStop:
    sleep: {seconds: 5}
{{- end -}}

{{/* Data volume of a pod that holds records. */}}
{{- define "flotilla.claims" -}}
# A volume outlives its pod and its StatefulSet: what is deleted here is deleted by hand.
persistentVolumeClaimRetentionPolicy:
  whenDeleted: Retain
  whenScaled: Retain
volumeClaimTemplates:
  - metadata:
      name: data
      labels: {{- include "flotilla.podLabels" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .values.storage.className }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .values.storage.size }}
{{- end -}}

{{- define "flotilla.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "flotilla.fullname" .root }}-{{ .component }}
  labels: {{- include "flotilla.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  {{- if eq .component "shard" }}
  # An unready shard node may still vote: while one is away, no other goes, ready or not.
  unhealthyPodEvictionPolicy: IfHealthyBudget
  {{- else }}
  # A pod that is broken anyway does not hold up a drain of its host.
  unhealthyPodEvictionPolicy: AlwaysAllow
  {{- end }}
  selector:
    matchLabels: {{- include "flotilla.podLabels" . | nindent 6 }}
{{- end -}}
