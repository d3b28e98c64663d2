{{/* Parts of choir.validate that look at single values. Each writes a line for each value that is wrong. */}}

{{- define "choir.wrongNames" -}}
{{- $name := include "choir.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
fullnameOverride: services would be called {{ $name }}, but their names begin with a letter and have only a-z, 0-9 and "-"
{{- end }}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$" .Values.nameOverride) }}
nameOverride: {{ .Values.nameOverride }}: a name has only a-z, 0-9 and "-", the first and the last not "-"
{{- end }}
{{- end -}}

{{- define "choir.wrongImages" -}}
{{- $v := .Values -}}
{{- $label := "[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?" -}}
{{- $host := printf "((localhost|%s([.]%s)+|[[][0-9A-Fa-f:]+[]])(:[0-9]{1,5})?|%s:[0-9]{1,5})" $label $label $label -}}
{{- $step := "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*" -}}
{{- $name := printf "(%s/)?%s(/%s)*" $host $step $step -}}
{{- range $path, $given := dict "image.repository" $v.image.repository "worker.imageRepository" $v.worker.imageRepository }}
{{- if not (regexMatch (printf "^(%s)?$" $name) $given) }}
{{ $path }}: {{ $given }} is no name of an image: after the registry's host there are a-z, 0-9 and single ._- between slashes, as registry.example.org/choir; tag and digest are values of their own
{{- end }}
{{- end }}
{{- $reference := $v.model.imageReference }}
{{- if not (regexMatch (printf "^(%s(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?@sha256:[0-9a-f]{64}))?$" $name) $reference) }}
model.imageReference: {{ $reference }} is no image with its digest or tag, as registry.example.org/models/demo@sha256: and 64 digits of 0-9a-f
{{- end }}
{{- end -}}

{{- define "choir.wrongAmounts" -}}
{{- $v := .Values -}}
{{- range $part := list "router" "gateway" "worker" }}
{{- $limits := default dict (get $v $part).resources.limits }}
{{- range $resource, $request := (get $v $part).resources.requests }}
{{- $limit := get $limits $resource }}
{{- if and (hasKey $limits $resource) (gt (include "choir.amount" $request | float64) (include "choir.amount" $limit | float64)) }}
{{ $part }}.resources.requests.{{ $resource }}: {{ $request }} is more than its limit, {{ $limit }}
{{- else if and (contains "/" $resource) (ne (toString $request) (toString $limit)) }}
{{ $part }}.resources.requests.{{ $resource }}: {{ $request }} has to be given as its limit, too: it cannot be shared out
{{- end }}
{{- end }}
{{- end }}
{{- range $device := list $v.worker.gpu $v.worker.rdma }}
{{- if and (eq $device.mode "devicePlugin") (hasKey (default dict $v.worker.resources.limits) $device.resourceName) }}
worker.resources.limits.{{ $device.resourceName }}: worker.gpu and worker.rdma ask for it already
{{- end }}
{{- end }}
{{- if and (eq $v.worker.gpu.mode "devicePlugin") (eq $v.worker.rdma.mode "devicePlugin") (eq $v.worker.gpu.resourceName $v.worker.rdma.resourceName) }}
worker.rdma.resourceName: {{ $v.worker.rdma.resourceName }} is worker.gpu.resourceName already: a pod would get only one of both
{{- end }}
{{- if not (include "choir.bytes" $v.worker.shmSize | float64) }}
worker.shmSize: {{ $v.worker.shmSize }}: Kubernetes takes that for no limit; give more, as 64Mi
{{- end }}
{{- $segment := default "64MiB" (dig "audit" "segment_bytes" "" $v.router.config) }}
{{- $bytes := kindIs "string" $segment | ternary (include "choir.fileAmount" (toString $segment)) $segment | float64 }}
{{- if lt (include "choir.bytes" $v.router.audit.size | float64) (mulf 2.0 $bytes) }}
router.audit.size: {{ $v.router.audit.size }} is less than two segments (router.config.audit.segment_bytes, {{ kindIs "string" $segment | ternary $segment (int64 $segment) }}): the log would be full at once, and nothing is served unrecorded; give more
{{- end }}
{{- if not (regexMatch "[1-9]" $v.podMonitor.interval) }}
podMonitor.interval: {{ $v.podMonitor.interval }}: between two scrapes is more than nothing; give for example 15s
{{- end }}
{{- $kv := include "choir.bytes" $v.worker.kvBytes | float64 }}
{{- if or (lt $kv 65536.0) (gt $kv 17592186044416.0) }}
worker.kvBytes: {{ $v.worker.kvBytes }} is not from 64Ki to 16Ti
{{- end }}
{{- if eq (trimSuffix "m" $v.autoscaling.hpa.target | float64) 0.0 }}
autoscaling.hpa.target: {{ $v.autoscaling.hpa.target }} of a metric would always ask for one more group; give more than 0
{{- end }}
{{- if eq (float64 $v.autoscaling.keda.target) 0.0 }}
autoscaling.keda.target: {{ $v.autoscaling.keda.target }} of a metric would always ask for one more group; give more than 0
{{- end }}
{{- $c := $v.tls.certManager }}
{{- if lt (include "choir.seconds" $c.duration | float64) 3600.0 }}
tls.certManager.duration: {{ $c.duration }} is less than cert-manager's least, 1h
{{- else if ge (include "choir.seconds" $c.renewBefore | float64) (include "choir.seconds" $c.duration | float64) }}
tls.certManager.renewBefore: {{ $c.renewBefore }} is not less than duration, {{ $c.duration }}: certificates would be renewed without end
{{- else if lt (include "choir.seconds" $c.renewBefore | float64) 300.0 }}
tls.certManager.renewBefore: {{ $c.renewBefore }} is less than cert-manager's least, 5m
{{- end }}
{{- end -}}

{{/* What ranks compute on and what their pods have. */}}
{{- define "choir.wrongDevices" -}}
{{- $v := .Values -}}
{{- $device := default "cpu" $v.worker.config.device }}
{{- if and (eq $device "cuda") (eq $v.worker.gpu.mode "none") }}
worker.config.device: cuda needs a GPU, and worker.gpu.mode is none; give worker.gpu.mode devicePlugin or dra
{{- else if and (eq $device "cpu") (ne $v.worker.gpu.mode "none") }}
worker.config.device: cpu, with worker.gpu.mode {{ $v.worker.gpu.mode }}: ranks would hold GPUs and compute on CPUs; give cuda or auto
{{- end }}
{{- if and (ne $v.worker.gpu.mode "none") (not $v.worker.imageRepository) }}
worker.imageRepository: needed, as worker.gpu.mode is {{ $v.worker.gpu.mode }}: `image` computes on CPUs; name the one that deploy/image/build --target cuda makes, as registry.example.org/choir-cuda
{{- end }}
{{- if and (ne $v.worker.gpu.mode "none") (gt (int $v.worker.gpu.count) 1) }}
worker.gpu.count: {{ $v.worker.gpu.count }}: a rank computes on one GPU, the others would be idle; give 1, and more worker.ranks
{{- end }}
{{- if and $v.model.weightBytes (ne $device "cuda") (not (dig "limits" "memory" "" $v.worker.resources)) }}
worker.resources.limits.memory: needed, as model.weightBytes is there to be checked against it
{{- end }}
{{- end -}}
