{{/* The pod of a rank: the same for StatefulSet and LeaderWorkerSet. */}}
{{- define "choir.workerPod" -}}
{{- $v := .Values -}}
{{- $lws := eq $v.worker.mode "leaderWorkerSet" -}}
{{- $gpu := $v.worker.gpu.mode -}}{{- $rdma := $v.worker.rdma.mode -}}
{{- $claims := or (eq $gpu "dra") (eq $rdma "dra") -}}
metadata:
  labels:
{{ include "choir.podLabels" (list . "worker") | indent 4 }}
  annotations:
    choir.dev/config: {{ toJson $v.worker.config | sha256sum | quote }}
{{- with $v.worker.podAnnotations }}
{{ toYaml . | indent 4 }}
{{- end }}
spec:
{{ include "choir.podBase" (list . $v.worker) | indent 2 }}
{{- if not $lws }}
{{- include "choir.spread" (list . "worker" $v.worker.spreadOver) | trim | nindent 2 }}
{{- end }}
{{- with $v.worker.gpu.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
{{- end }}
{{- if $claims }}
  resourceClaims:
  - name: devices
    resourceClaimTemplateName: {{ include "choir.workerService" . }}
{{- end }}
  containers:
  - name: worker
    image: {{ include "choir.workerImage" . | quote }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    command: [/usr/bin/choir-worker]
    args:
{{- if $v.worker.config }}
    - --config=/etc/choir/config/choir.yaml
{{- end }}
    - --listen=0.0.0.0:7100
    - --admin=0.0.0.0:9100
{{- if not $lws }}
    - --pod=$(POD_NAME).{{ include "choir.workerService" . }}
    - --ranks={{ $v.worker.ranks }}
{{- end }}
    - --model={{ $v.model.path }}
    - --model-name={{ include "choir.modelName" . }}
{{- with $v.model.weightsDigest }}
    - --weights-digest={{ . }}
{{- end }}
    - --kv-bytes={{ include "choir.bytes" $v.worker.kvBytes }}
    - --threads={{ include "choir.threads" . }}
    - --cache-dir=/var/lib/choir
    - --drain-timeout={{ $v.drain.drainSeconds }}s
    - --retry-start=30s
{{- include "choir.tlsArgs" (list . "worker" "") | trim | nindent 4 }}
{{- if not $lws }}
    env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
{{- end }}
    ports:
    - name: grpc
      containerPort: 7100
      protocol: TCP
    - name: worker-admin
      containerPort: 9100
      protocol: TCP
{{ include "choir.probes" (list "worker-admin" "/readyz" $v.model.loadBudgetSeconds) | indent 4 }}
    resources:
{{- $resources := deepCopy $v.worker.resources }}
{{- $limits := default dict $resources.limits }}
{{- if eq $gpu "devicePlugin" }}{{- $_ := set $limits $v.worker.gpu.resourceName (toString $v.worker.gpu.count) }}{{- end }}
{{- if eq $rdma "devicePlugin" }}{{- $_ := set $limits $v.worker.rdma.resourceName (toString $v.worker.rdma.count) }}{{- end }}
{{- if $limits }}{{- $_ := set $resources "limits" $limits }}{{- end }}
{{- if $claims }}{{- $_ := set $resources "claims" (list (dict "name" "devices")) }}{{- end }}
{{ toYaml $resources | indent 6 }}
    securityContext:
{{ include "choir.containerSecurity" . | indent 6 }}
{{- if ne $rdma "none" }}
        add: [IPC_LOCK]
{{- end }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
    - name: state
      mountPath: /var/lib/choir
    - name: tmp
      mountPath: /tmp
    - name: shm
      mountPath: /dev/shm
{{ include "choir.modelMount" . | indent 4 }}
{{- if $v.worker.config }}
    - name: config
      mountPath: /etc/choir/config
      readOnly: true
{{- end }}
{{- include "choir.expertMounts" . | trim | nindent 4 }}
{{- include "choir.tlsMount" (list . "worker") | trim | nindent 4 }}
  volumes:
  - name: state
    emptyDir:
      sizeLimit: 1Gi
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ $v.worker.shmSize }}
{{ include "choir.modelVolume" . | indent 2 }}
{{- if $v.worker.config }}
  - name: config
    configMap:
      name: {{ include "choir.workerService" . }}
{{- end }}
{{- include "choir.expertVolumes" . | trim | nindent 2 }}
{{- include "choir.tlsVolume" (list . "worker") | trim | nindent 2 }}
{{- end -}}

{{/* What workers counted of their experts: to read, and a place to leave it. */}}
{{- define "choir.expertMounts" -}}
{{- with .Values.worker.expertFiles }}
{{- if .existingConfigMap }}
- name: expert-hotness
  mountPath: /etc/choir/experts
  readOnly: true
{{- end }}
{{- if .claimName }}
- name: expert-files
  mountPath: /var/lib/choir-experts
{{- if not $.Values.worker.config.expert_counts }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.expertVolumes" -}}
{{- with .Values.worker.expertFiles }}
{{- with .existingConfigMap }}
- name: expert-hotness
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- with .claimName }}
- name: expert-files
  persistentVolumeClaim:
    claimName: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}
