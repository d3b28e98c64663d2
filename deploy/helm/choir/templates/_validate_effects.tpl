{{/* Parts of choir.validate: values that nothing would come of, for one who gave them thinks otherwise. Blocks that have an
`enabled` of their own may be filled while it is false. Each writes a line for each value that is wrong. */}}

{{/* Values that are not their defaults (in values.yaml) where their switch says that nobody looks at them:
path, value, default, why. */}}
{{- define "choir.withoutEffect" -}}
{{- $v := .Values -}}{{- $rows := list -}}
{{- $c := $v.tls.certManager -}}
{{- if ne $v.tls.mode "certManager" -}}
{{- $why := printf "tls.mode is %s" $v.tls.mode -}}
{{- $rows = concat $rows (list (list "tls.certManager.issuerName" $c.issuerName "" $why) (list "tls.certManager.issuerKind" $c.issuerKind "Issuer" $why)
  (list "tls.certManager.duration" $c.duration "2160h" $why) (list "tls.certManager.renewBefore" $c.renewBefore "720h" $why)) -}}
{{- else if not $c.issuerName -}}
{{- $rows = append $rows (list "tls.certManager.issuerKind" $c.issuerKind "Issuer" "tls.certManager.issuerName is empty") -}}
{{- end -}}
{{- if eq $v.tls.mode "off" -}}
{{- $rows = append $rows (list "tls.trustDomain" $v.tls.trustDomain "choir" "tls.mode is off") -}}
{{- end -}}
{{- if not $v.redis.existingSecret -}}
{{- $rows = concat $rows (list (list "networkPolicy.redis" $v.networkPolicy.redis list "redis.existingSecret is empty")
  (list "networkPolicy.redisPort" (int $v.networkPolicy.redisPort) 6379 "redis.existingSecret is empty")) -}}
{{- end -}}
{{- if eq $v.gateway.mode "none" -}}
{{- $g := $v.gateway -}}{{- $why := "gateway.mode is none" -}}
{{- $rows = concat $rows (list (list "gateway.config" $g.config dict $why) (list "gateway.tlsSecret" $g.tlsSecret "" $why)
  (list "gateway.service.type" $g.service.type "ClusterIP" $why) (list "gateway.service.port" (int $g.service.port) 80 $why)
  (list "gateway.service.annotations" $g.service.annotations dict $why) (list "networkPolicy.clients" $v.networkPolicy.clients list $why)) -}}
{{- end -}}
{{- if ne $v.gateway.mode "deployment" -}}
{{- $g := $v.gateway -}}{{- $why := printf "gateway.mode is %s, not deployment" $g.mode -}}
{{- $rows = concat $rows (list (list "gateway.replicas" (int $g.replicas) 2 $why) (list "gateway.tolerations" $g.tolerations list $why)
  (list "gateway.priorityClassName" $g.priorityClassName "" $why)) -}}
{{- range $key := list "nodeSelector" "affinity" "podAnnotations" "podLabels" -}}
{{- $rows = append $rows (list (printf "gateway.%s" $key) (get $g $key) dict $why) -}}
{{- end -}}
{{- end -}}
{{- $names := dict "gpu" (list "nvidia.com/gpu" "gpu.nvidia.com") "rdma" (list "rdma/hca" "") -}}
{{- range $device, $default := $names -}}
{{- $d := get $v.worker $device -}}{{- $why := printf "worker.%s.mode is %s" $device $d.mode -}}
{{- if eq $d.mode "none" -}}{{- $rows = append $rows (list (printf "worker.%s.count" $device) (int $d.count) 1 $why) -}}{{- end -}}
{{- if ne $d.mode "devicePlugin" -}}
{{- $rows = append $rows (list (printf "worker.%s.resourceName" $device) $d.resourceName (first $default) $why) -}}
{{- end -}}
{{- if ne $d.mode "dra" -}}
{{- $rows = append $rows (list (printf "worker.%s.deviceClassName" $device) $d.deviceClassName (last $default) $why) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.worker.mode "leaderWorkerSet") $v.worker.spreadOver -}}
{{- $rows = append $rows (list "worker.spreadOver" $v.worker.spreadOver (list "kubernetes.io/hostname") "worker.mode is leaderWorkerSet, see worker.groupTopologyKey") -}}
{{- end -}}
{{- if $v.router.audit.ephemeral -}}
{{- $rows = append $rows (list "router.audit.storageClassName" $v.router.audit.storageClassName "" "router.audit.ephemeral is true") -}}
{{- end -}}
{{- if ne $v.router.audit.class "bounded" -}}
{{- $sync := dig "audit" "sync_interval" "" $v.router.config -}}
{{- $rows = append $rows (list "router.config.audit.sync_interval" $sync "" (printf "router.audit.class is %s, not bounded" $v.router.audit.class)) -}}
{{- end -}}
{{- if not $v.model.weightBytes -}}
{{- $rows = append $rows (list "model.sharedWeightBytes" $v.model.sharedWeightBytes "0" "model.weightBytes is empty") -}}
{{- end -}}
{{- if not $v.serviceAccount.create -}}
{{- $rows = append $rows (list "serviceAccount.annotations" $v.serviceAccount.annotations dict "serviceAccount.create is false") -}}
{{- end -}}
{{- range $rows -}}
{{- if ne (index . 1 | toJson) (index . 2 | toJson) }}
{{ index . 0 }}: has no effect, as {{ index . 3 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations that the chart or Kubernetes' controllers set themselves. */}}
{{- define "choir.ownKey" -}}
^(app[.]kubernetes[.]io/(name|instance|component|version|managed-by)|helm[.]sh/chart|choir[.]dev/.*|leaderworkerset[.]sigs[.]k8s[.]io/.*|(statefulset|apps)[.]kubernetes[.]io/.*|controller-revision-hash|pod-template-hash)$
{{- end -}}

{{- define "choir.wrongLabels" -}}
{{- $v := .Values -}}
{{- $own := include "choir.ownKey" . -}}
{{- $all := dict "commonLabels" $v.commonLabels "podMonitor.labels" $v.podMonitor.labels }}
{{- range $part := list "router" "gateway" "worker" }}
{{- $_ := set $all (printf "%s.podAnnotations" $part) (get $v $part).podAnnotations }}
{{- $_ := set $all (printf "%s.podLabels" $part) (get $v $part).podLabels }}
{{- end }}
{{- range $path, $given := $all }}
{{- range $key, $_ := $given }}
{{- if regexMatch $own $key }}
{{ $path }}.{{ $key }}: is set already, and others find objects by it; take a name of your own
{{- else if and (regexMatch "abels$" $path) (ne $path "commonLabels") (hasKey $v.commonLabels $key) }}
{{ $path }}.{{ $key }}: is in commonLabels already
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the model is, and where it may be seen: nothing else may be there, above or below. */}}
{{- define "choir.wrongPaths" -}}
{{- $m := .Values.model -}}{{- $path := $m.path -}}
{{- $step := "[.]{0,2}[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*" -}}
{{- range $key, $shape := dict "path" (printf "^(/%s)+$" $step) "hostPath" (printf "^((/%s)+)?$" $step) "subPath" (printf "^(%s(/%s)*)?$" $step $step) }}
{{- if not (regexMatch $shape (get $m $key)) }}
model.{{ $key }}: {{ get $m $key }} is no plain {{ eq $key "subPath" | ternary "relative path, as models/demo" "absolute path, as /models/demo" }}: steps of A-Z, a-z, 0-9 and ._@+=,~- between single slashes, without `..`
{{- end }}
{{- end }}
{{- range list "/bin" "/boot" "/dev" "/etc" "/lib" "/lib32" "/lib64" "/proc" "/run" "/sbin" "/sys" "/tmp" "/usr" "/var/lib/choir" "/var/lib/choir-experts" "/var/run" }}
{{- if or (eq . $path) (hasPrefix (printf "%s/" .) $path) (hasPrefix (printf "%s/" $path) .) }}
model.path: {{ $path }} is in the way of {{ . }}, where pods have files of their own; give for example /models/demo
{{- end }}
{{- end }}
{{- end -}}
