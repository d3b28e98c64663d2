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

{{- define "choir.wrongNetwork" -}}
{{- $v := .Values -}}{{- $n := .Values.networkPolicy -}}
{{- $peers := dict -}}
{{- range $key := list "clients" "routerClients" "monitoring" "redis" -}}{{- $_ := set $peers $key (get $n $key) -}}{{- end -}}
{{- range $key := list "routerEgress" "gatewayEgress" "workerEgress" -}}
{{- $to := list -}}{{- range get $n $key -}}{{- $to = concat $to (default list .to) -}}{{- end -}}
{{- $_ := set $peers $key $to -}}
{{- end -}}
{{- range $key, $listed := $peers }}
{{- range $peer := $listed }}
{{- with $peer.ipBlock }}
{{- range $block := prepend (default list .except) .cidr }}
{{- if not (regexMatch "^(([0-9]{1,3}[.]){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])|[0-9a-fA-F:]*:[0-9a-fA-F:.]*/([0-9]{1,2}|1[01][0-9]|12[0-8]))$" $block) }}
networkPolicy.{{ $key }}: {{ $block }}: a block of addresses is written with its mask, as 10.0.0.0/8
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $n.gatewayEgress (ne $v.gateway.mode "deployment") }}
networkPolicy.gatewayEgress: has no effect, as gateway.mode is {{ $v.gateway.mode }}: gateways leave by routerEgress
{{- end }}
{{- $gateways := eq $v.gateway.mode "deployment" | ternary "gatewayEgress" "routerEgress" }}
{{- if $n.enabled }}
{{- range $part, $key := dict "router" "routerEgress" "gateway" $gateways "worker" "workerEgress" }}
{{- $collector := dig "trace" "endpoint" "" (get $v $part).config }}
{{- if and $collector (not (regexMatch "^(127[.]|localhost:|[[]::1|unix:)" $collector)) (not (get $n $key)) }}
networkPolicy.{{ $key }}: needed, as {{ $part }}.config.trace.endpoint is {{ $collector }}: spans would not leave the pod
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the chart sets by flags, which win over the file. */}}
{{- define "choir.reserved" -}}
router: [listen, admin, model, model_name, keys, workers, workers_file, tls, insecure, audit.class, audit.dir, audit.keys_dir, redis.url,
  redis.url_file, drain_timeout, drain_notice, retry_start, tenants, limits, jwt.jwks]
gateway: [listen, admin, routers, spread_routers, tls, insecure, router_tls, router_insecure, drain_timeout, drain_notice, retry_start]
worker: [model, model_name, weights_digest, group, rank, ranks, leader, listen, admin, advertise, group_listen, pod, kv_bytes, threads, tls,
  insecure, drain_timeout, retry_start, cache_dir]
{{- end -}}

{{- define "choir.wrongConfig" -}}
{{- $v := .Values -}}
{{- range $part, $paths := include "choir.reserved" . | fromYaml }}
{{- range $path := $paths }}
{{- $at := (get $v $part).config }}
{{- range splitList "." $path }}
{{- $at = and (kindIs "map" $at) (hasKey $at .) | ternary (get (kindIs "map" $at | ternary $at dict) .) nil }}
{{- end }}
{{- if not (kindIs "invalid" $at) }}
{{ $part }}.config.{{ $path }}: the chart sets this itself; use its own value for it
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.router.config.redis (not $v.redis.existingSecret) }}
router.config.redis: has no effect, as redis.existingSecret is empty
{{- end }}
{{- if and (eq (dig "result_cache" "store" "" $v.router.config) "redis") (not $v.redis.existingSecret) }}
router.config.result_cache.store: redis needs redis.existingSecret
{{- end }}
{{- $budget := dig "global" "budget" nil $v.router.limits | default (dig "default" "budget" nil $v.router.limits) }}
{{- range $rules := concat (values $v.router.tenants) (values (dig "models" dict $v.router.limits)) }}
{{- $budget = default (get $rules "budget") $budget }}
{{- end }}
{{- if and $budget (not $v.router.limits.prices) }}
router.limits.prices: needed, as there is a budget
{{- end }}
{{- end -}}
