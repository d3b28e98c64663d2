{{- define "choir.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}{{- end -}}
{{- end -}}

{{- define "choir.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of an object; call with (list $ "router"). */}}
{{- define "choir.labels" -}}
{{- $top := index . 0 -}}
{{ include "choir.selector" $top }}
app.kubernetes.io/component: {{ index . 1 | quote }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | quote }}
{{- range $k, $v := $top.Values.commonLabels }}
{{ $k }}: {{ $v | quote }}
{{- end }}
{{- end -}}

{{- define "choir.matchLabels" -}}
{{ include "choir.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 | quote }}
{{- end -}}

{{/* Labels of pods: what does not change with a release, so that an upgrade replaces nothing for its sake. */}}
{{- define "choir.podLabels" -}}
{{ include "choir.matchLabels" . }}
{{- range $k, $v := merge (dict) (index . 0).Values.commonLabels (get (index . 0).Values (index . 1)).podLabels }}
{{ $k }}: {{ $v | quote }}
{{- end }}
{{- end -}}

{{- define "choir.serviceAccount" -}}
{{- default (include "choir.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "choir.imageOf" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{- define "choir.image" -}}
{{- include "choir.imageOf" (dict "repository" .Values.image.repository "digest" .Values.image.digest "tag" (default .Chart.AppVersion .Values.image.tag)) -}}
{{- end -}}

{{- define "choir.workerImage" -}}
{{- $w := .Values.worker -}}
{{- if $w.imageRepository -}}
{{- include "choir.imageOf" (dict "repository" $w.imageRepository "digest" $w.imageDigest "tag" (default .Chart.AppVersion $w.imageTag)) -}}
{{- else -}}{{- include "choir.image" . -}}{{- end -}}
{{- end -}}

{{- define "choir.modelName" -}}{{- default (base .Values.model.path) .Values.model.name -}}{{- end -}}

{{/* The version that is rendered for. */}}
{{- define "choir.kube" -}}{{- default .Capabilities.KubeVersion.Version .Values.kubeVersion -}}{{- end -}}

{{/* Seconds that a pod gets to end. */}}
{{- define "choir.grace" -}}
{{- $d := .Values.drain -}}
{{- $sum := add $d.noticeSeconds $d.drainSeconds $d.flushSeconds | int -}}
{{- if $d.terminationGracePeriodSeconds -}}{{- $d.terminationGracePeriodSeconds | int -}}{{- else -}}{{- $sum -}}{{- end -}}
{{- end -}}

{{/* A quantity as a whole number of bytes: "4Gi", "500M", "0.5Gi", 1024. Units of the configuration (GiB) are read, too. */}}
{{- define "choir.bytes" -}}
{{- $text := (kindIs "float64" . | ternary (printf "%.0f" (float64 .)) (toString .)) | trimSuffix "B" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "K" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $number := trimSuffix $unit $text -}}
{{- if and $unit (not (hasKey $units $unit)) -}}{{- fail (printf "%s: a size is a number with Ki, Mi, Gi, Ti, k, M, G or T" .) -}}{{- end -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)?$" $number) -}}{{- fail (printf "%s: a size is a number with Ki, Mi, Gi, Ti, k, M, G or T" .) -}}{{- end -}}
{{- if $unit -}}{{- mulf (float64 $number) (float64 (get $units $unit)) | ceil | int64 -}}{{- else -}}{{- float64 $number | ceil | int64 -}}{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes as a number, to be compared: "500m" is 0.5. */}}
{{- define "choir.amount" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}{{- divf (trimSuffix "m" $text | float64) 1000.0 -}}
{{- else if regexMatch "[A-Za-z]$" $text -}}{{- include "choir.bytes" . -}}
{{- else -}}{{- float64 . -}}{{- end -}}
{{- end -}}

{{/* "1h30m" in seconds. */}}
{{- define "choir.seconds" -}}
{{- $units := dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) (get $units $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* Compute threads of a rank: the CPUs that its container may use, for a rank sees all of its node; 256 at most. */}}
{{- define "choir.threads" -}}
{{- $cpu := default (dig "requests" "cpu" "" .Values.worker.resources) (dig "limits" "cpu" "" .Values.worker.resources) | toString -}}
{{- if .Values.worker.threads -}}{{- .Values.worker.threads | int -}}
{{- else if not $cpu -}}0
{{- else if hasSuffix "m" $cpu -}}{{- div (trimSuffix "m" $cpu | int) 1000 | max 1 | min 256 -}}
{{- else -}}{{- float64 $cpu | floor | int | max 1 | min 256 -}}{{- end -}}
{{- end -}}

{{/* The service of the worker pods, by whose name routers and ranks find them. */}}
{{- define "choir.workerService" -}}{{ include "choir.fullname" . }}-worker{{- end -}}
{{- define "choir.routerService" -}}{{ include "choir.fullname" . }}-router{{- end -}}

{{- define "choir.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "choir.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A pod that is ready has to be found by the others (names are looked up every 5 s) before the next one is replaced. */}}
{{- define "choir.minReady" }}
{{- if semverCompare ">=1.25.0-0" (include "choir.kube" .) }}
  minReadySeconds: 15
{{- end }}
{{- end -}}

{{/* What all pods share. */}}
{{- define "choir.podBase" -}}
{{- $top := index . 0 -}}{{- $part := index . 1 -}}
serviceAccountName: {{ include "choir.serviceAccount" $top }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "choir.grace" $top }}
securityContext:
{{ include "choir.podSecurity" $top | indent 2 }}
{{- with $top.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with $part.affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{- define "choir.spread" -}}
{{- $top := index . 0 -}}{{- $component := index . 1 -}}
{{- with index . 2 }}
topologySpreadConstraints:
{{- range . }}
- topologyKey: {{ . | quote }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
{{ include "choir.matchLabels" (list $top $component) | indent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The model as a volume, and where it is seen. */}}
{{- define "choir.modelVolume" -}}
- name: model
{{- if eq .Values.model.source "pvc" }}
  persistentVolumeClaim:
    claimName: {{ .Values.model.claimName | quote }}
    readOnly: true
{{- else if eq .Values.model.source "image" }}
  image:
    reference: {{ .Values.model.imageReference | quote }}
    pullPolicy: IfNotPresent
{{- else }}
  hostPath:
    path: {{ .Values.model.hostPath | quote }}
    type: Directory
{{- end }}
{{- end -}}

{{- define "choir.modelMount" -}}
- name: model
  mountPath: {{ .Values.model.path | quote }}
  readOnly: true
{{- with .Values.model.subPath }}
  subPath: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Certificates: volume, mount and flags of a part; call with (list $ "router" FLAG_PREFIX). */}}
{{- define "choir.tlsSecret" -}}
{{- $top := index . 0 -}}{{- $part := index . 1 -}}
{{- if eq $top.Values.tls.mode "existing" -}}{{- get $top.Values.tls.existing (printf "%sSecret" $part) -}}
{{- else -}}{{ include "choir.fullname" $top }}-{{ $part }}-tls{{- end -}}
{{- end -}}

{{- define "choir.tlsVolume" -}}
{{- if ne (index . 0).Values.tls.mode "off" }}
- name: {{ index . 1 }}-tls
  secret:
    secretName: {{ include "choir.tlsSecret" . | quote }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "choir.tlsMount" -}}
{{- if ne (index . 0).Values.tls.mode "off" }}
- name: {{ index . 1 }}-tls
  mountPath: /etc/choir/{{ index . 1 }}-tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "choir.tlsArgs" -}}
{{- $top := index . 0 -}}{{- $part := index . 1 -}}{{- $prefix := index . 2 -}}
{{- if eq $top.Values.tls.mode "off" }}
- --{{ $prefix }}insecure
{{- else }}
- --{{ $prefix }}tls-cert=/etc/choir/{{ $part }}-tls/tls.crt
- --{{ $prefix }}tls-key=/etc/choir/{{ $part }}-tls/tls.key
- --{{ $prefix }}tls-ca=/etc/choir/{{ $part }}-tls/ca.crt
- --{{ $prefix }}tls-trust-domain={{ $top.Values.tls.trustDomain }}
{{- end }}
{{- end -}}

{{- define "choir.probes" -}}
{{- $port := index . 0 -}}{{- $startup := index . 1 -}}{{- $seconds := index . 2 | int -}}
startupProbe:
  httpGet:
    path: {{ $startup }}
    port: {{ $port }}
    scheme: HTTP
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ divf $seconds 10 | ceil | int }}
livenessProbe:
  httpGet:
    path: /livez
    port: {{ $port }}
    scheme: HTTP
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ $port }}
    scheme: HTTP
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* Names that gateways dial, one a router. */}}
{{- define "choir.routerArgs" -}}
{{- $name := include "choir.routerService" . -}}
{{- range $i := until (int .Values.router.replicas) }}
- --router={{ $name }}-{{ $i }}.{{ $name }}:7070
{{- end }}
{{- end -}}

{{/* The gateway as a container; call with (list $ MODE). */}}
{{- define "choir.gatewayContainer" -}}
{{- $top := index . 0 -}}{{- $mode := index . 1 -}}
- name: gateway
  image: {{ include "choir.image" $top | quote }}
  imagePullPolicy: {{ $top.Values.image.pullPolicy }}
  command: [/usr/bin/choir-gateway]
  args:
  - --config=/etc/choir/config/choir.yaml
  - --listen=0.0.0.0:8080
  - --admin=0.0.0.0:9080
{{- if ne $mode "deployment" }}
  - --router=127.0.0.1:7070
{{- end }}
{{- if or (eq $mode "deployment") (gt (int $top.Values.router.replicas) 1) }}
{{- include "choir.routerArgs" $top | trim | nindent 2 }}
{{- end }}
{{- if eq $mode "deployment" }}
  - --spread-routers
{{- end }}
{{- include "choir.tlsArgs" (list $top "gateway" "router-") | trim | nindent 2 }}
{{- if $top.Values.gateway.tlsSecret }}
  - --tls-cert=/etc/choir/https/tls.crt
  - --tls-key=/etc/choir/https/tls.key
{{- else }}
  - --insecure
{{- end }}
  - --retry-start=30s
  - --drain-notice={{ if eq $mode "sidecar" }}0{{ else }}{{ $top.Values.drain.noticeSeconds }}{{ end }}s
  - --drain-timeout={{ $top.Values.drain.drainSeconds }}s
{{- if eq $mode "sidecar" }}
  restartPolicy: Always
{{- end }}
  ports:
  - name: http
    containerPort: 8080
    protocol: TCP
  - name: gateway-admin
    containerPort: 9080
    protocol: TCP
{{ include "choir.probes" (list "gateway-admin" "/livez" 60) | indent 2 }}
  resources:
{{ toYaml $top.Values.gateway.resources | indent 4 }}
  securityContext:
{{ include "choir.containerSecurity" $top | indent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
  - name: config
    mountPath: /etc/choir/config
    readOnly: true
  - name: tmp
    mountPath: /tmp
{{- include "choir.tlsMount" (list $top "gateway") | trim | nindent 2 }}
{{- if $top.Values.gateway.tlsSecret }}
  - name: https
    mountPath: /etc/choir/https
    readOnly: true
{{- end }}
{{- end -}}

{{- define "choir.gatewayVolumes" -}}
{{- include "choir.tlsVolume" (list . "gateway") }}
{{- with .Values.gateway.tlsSecret }}
- name: https
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* The public keys of an identity provider; empty: there are none. */}}
{{- define "choir.jwksVolume" -}}
{{- $jwks := .Values.router.jwks -}}
{{- if $jwks.existingSecret }}
- name: jwks
  secret:
    secretName: {{ $jwks.existingSecret | quote }}
    defaultMode: 0440
{{- else if $jwks.existingConfigMap }}
- name: jwks
  configMap:
    name: {{ $jwks.existingConfigMap | quote }}
{{- end }}
{{- end -}}

{{/* The configuration file of a part, as text. */}}
{{- define "choir.routerConfig" -}}
{{- $c := deepCopy .Values.router.config -}}
{{- with .Values.router.tenants }}{{- $_ := set $c "tenants" . }}{{- end -}}
{{- with .Values.router.limits }}{{- $_ := set $c "limits" . }}{{- end -}}
{{- if include "choir.jwksVolume" . }}{{- $_ := set $c "jwt" (set (default dict $c.jwt) "jwks" (printf "/etc/choir/jwks/%s" .Values.router.jwks.key)) }}{{- end -}}
{{ toYaml (dict "router" $c "gateway" .Values.gateway.config) }}
{{- end -}}

{{/* Of what the programs of the routers' pods read at start only: a change of it replaces the pods. */}}
{{- define "choir.routerChecksum" -}}
{{- $read := dict "router" .Values.router.config -}}
{{- if has .Values.gateway.mode (list "sidecar" "container") }}{{- $_ := set $read "gateway" .Values.gateway.config }}{{- end -}}
{{- if include "choir.jwksVolume" . }}{{- $_ := set $read "jwks" .Values.router.jwks.key }}{{- end -}}
{{- toJson $read | sha256sum -}}
{{- end -}}
