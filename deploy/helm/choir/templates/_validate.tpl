{{/* What cannot work together, each with the reason. */}}
{{- define "choir.validate" -}}
{{- $v := .Values -}}
{{- $kube := include "choir.kube" . -}}
{{- $errors := list -}}

{{- $sum := add $v.drain.noticeSeconds $v.drain.drainSeconds $v.drain.flushSeconds | int -}}
{{- $grace := include "choir.grace" . | int -}}
{{- if lt $grace $sum -}}
{{- $errors = append $errors (printf "drain.terminationGracePeriodSeconds: %d is shorter than noticeSeconds + drainSeconds + flushSeconds = %d, so the kubelet would cut streams that are still draining; give at least that, or 0" $grace $sum) -}}
{{- end -}}

{{- if semverCompare "<1.20.0-0" $kube -}}
{{- $errors = append $errors (printf "kubeVersion: %s: the chart needs Kubernetes 1.20 or later" $kube) -}}
{{- end -}}

{{- if not $v.keysSecret -}}
{{- $errors = append $errors "keysSecret: routers serve nobody without API keys; make a secret of `choir keys add --file keys.yaml` and name it here" -}}
{{- end -}}

{{- $source := $v.model.source -}}
{{- $needed := dict "pvc" "claimName" "image" "imageReference" "hostPath" "hostPath" -}}
{{- range $name, $key := $needed -}}
{{- if and (eq $source $name) (not (get $v.model $key)) -}}
{{- $errors = append $errors (printf "model.%s: needed, as model.source is %s" $key $name) -}}
{{- else if and (ne $source $name) (get $v.model $key) -}}
{{- $errors = append $errors (printf "model.%s: has no effect, as model.source is %s, not %s" $key $source $name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.model.subPath (ne $source "pvc") -}}
{{- $errors = append $errors "model.subPath: only with model.source pvc" -}}
{{- end -}}
{{- if and (eq $source "image") (semverCompare "<1.33.0-0" $kube) -}}
{{- $errors = append $errors (printf "model.source: image volumes need Kubernetes 1.33 or later, this is %s" $kube) -}}
{{- end -}}

{{- $ranks := int $v.worker.ranks -}}
{{- if and $v.model.experts (gt $ranks (int $v.model.experts)) -}}
{{- $errors = append $errors (printf "worker.ranks: %d ranks cannot share the %d experts of a layer (model.experts): every rank needs one" $ranks (int $v.model.experts)) -}}
{{- end -}}
{{- $memory := dig "limits" "memory" "" $v.worker.resources -}}
{{- $onGpu := eq (default "cpu" $v.worker.config.device) "cuda" -}}
{{- $shm := include "choir.bytes" $v.worker.shmSize | float64 -}}
{{- $kv := $onGpu | ternary 0.0 (include "choir.bytes" $v.worker.kvBytes | float64) -}}
{{- $own := 0.0 -}}
{{- $part := divf 1.0 (float64 $ranks) -}}
{{- $held := printf "a share of 1/%d of the rest" $ranks -}}
{{- if $v.model.experts -}}
{{- $slots := include "choir.expertSlots" . -}}
{{- $part = divf (float64 $slots) (float64 $v.model.experts) -}}
{{- $held = printf "%s of %d experts of each layer" $slots (int $v.model.experts) -}}
{{- end -}}
{{- if $v.model.weightBytes -}}
{{- $all := include "choir.bytes" $v.model.weightBytes | float64 -}}
{{- $shared := include "choir.bytes" $v.model.sharedWeightBytes | float64 -}}
{{- if gt $shared $all -}}
{{- $errors = append $errors (printf "model.sharedWeightBytes: %s is more than model.weightBytes, %s" $v.model.sharedWeightBytes $v.model.weightBytes) -}}
{{- else if not $onGpu -}}
{{- $own = addf $shared (mulf (subf $all $shared) $part) -}}
{{- end -}}
{{- end -}}
{{- if $memory -}}
{{- $need := addf (mulf $own 1.06) $kv $shm 536870912.0 -}}
{{- if gt $need (include "choir.bytes" $memory | float64) -}}
{{- $parts := printf "%s of shared memory and 512Mi" $v.worker.shmSize -}}
{{- if not $onGpu -}}{{- $parts = printf "%s of KV cache, %s" $v.worker.kvBytes $parts -}}{{- end -}}
{{- if $own -}}{{- $parts = printf "%.1fGi of weights (model.sharedWeightBytes and %s), %s" (divf $own 1073741824.0) $held $parts -}}{{- end -}}
{{- $errors = append $errors (printf "worker.resources.limits.memory: %s cannot hold a rank: %s need %.1fGi; give more memory%s" ($memory | toString) $parts (divf $need 1073741824.0) (gt $own 0.0 | ternary ($v.worker.config.redundant_experts | empty | ternary " or more ranks" ", more ranks or fewer redundant_experts") "")) -}}
{{- end -}}
{{- end -}}

{{- $lws := eq $v.worker.mode "leaderWorkerSet" -}}
{{- $hpa := $v.autoscaling.hpa.enabled -}}
{{- $keda := $v.autoscaling.keda.enabled -}}
{{- if and $hpa $keda -}}
{{- $errors = append $errors "autoscaling: hpa.enabled and keda.enabled: two autoscalers would fight over one number, choose one" -}}
{{- end -}}
{{- if or $hpa $keda -}}
{{- if and (not $lws) (gt $ranks 1) -}}
{{- $errors = append $errors (printf "autoscaling: a StatefulSet scales by pods, and a group of %d ranks only as a whole; use worker.mode leaderWorkerSet, or worker.ranks 1" $ranks) -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minGroups) (int $v.autoscaling.maxGroups) -}}
{{- $errors = append $errors (printf "autoscaling.minGroups: %d is more than maxGroups, %d" (int $v.autoscaling.minGroups) (int $v.autoscaling.maxGroups)) -}}
{{- end -}}
{{- if and $hpa (semverCompare "<1.23.0-0" $kube) -}}
{{- $errors = append $errors (printf "autoscaling.hpa: autoscaling/v2 needs Kubernetes 1.23 or later, this is %s" $kube) -}}
{{- end -}}
{{- end -}}
{{- if and $keda (not $v.autoscaling.keda.prometheus) -}}
{{- $errors = append $errors "autoscaling.keda.prometheus: needed: KEDA asks that Prometheus for the queue" -}}
{{- end -}}

{{- $update := $v.worker.updateStrategy -}}
{{- if $lws -}}
{{- if ne $update "auto" -}}
{{- $errors = append $errors "worker.updateStrategy: a LeaderWorkerSet replaces whole groups by itself, leave it at auto" -}}
{{- end -}}
{{- else -}}
{{- if $v.worker.groupTopologyKey -}}
{{- $errors = append $errors "worker.groupTopologyKey: only a LeaderWorkerSet keeps a group together" -}}
{{- end -}}
{{- if $v.worker.maxSurge -}}
{{- $errors = append $errors "worker.maxSurge: a StatefulSet has none" -}}
{{- end -}}
{{- if and (eq $update "groups") (semverCompare "<1.35.0-0" $kube) -}}
{{- $errors = append $errors (printf "worker.updateStrategy: groups needs maxUnavailable of StatefulSets, Kubernetes 1.35 or later, this is %s" $kube) -}}
{{- end -}}
{{- end -}}

{{- if and (eq $v.gateway.mode "sidecar") (semverCompare "<1.29.0-0" $kube) -}}
{{- $errors = append $errors (printf "gateway.mode: native sidecars need Kubernetes 1.29 or later, this is %s; use container or deployment" $kube) -}}
{{- end -}}
{{- range $route := list "httpRoute" "ingress" -}}
{{- if and (eq $v.gateway.mode "none") (get $v $route).enabled -}}
{{- $errors = append $errors (printf "%s.enabled: gateway.mode is none, so there is nothing to route to" $route) -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled $v.ingress.tlsSecret (not $v.ingress.hostnames) -}}
{{- $errors = append $errors "ingress.hostnames: needed, as ingress.tlsSecret is for names" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- $errors = append $errors "httpRoute.parentRefs: a route that belongs to no Gateway is never served" -}}
{{- end -}}

{{- $dra := or (eq $v.worker.gpu.mode "dra") (eq $v.worker.rdma.mode "dra") -}}
{{- if and $dra (semverCompare "<1.34.0-0" $kube) -}}
{{- $errors = append $errors (printf "worker.gpu.mode, worker.rdma.mode: dra needs resource.k8s.io/v1, Kubernetes 1.34 or later, this is %s" $kube) -}}
{{- end -}}
{{- range $device := list "gpu" "rdma" -}}
{{- if and (eq (get $v.worker $device).mode "dra") (not (get $v.worker $device).deviceClassName) -}}
{{- $errors = append $errors (printf "worker.%s.deviceClassName: needed, as worker.%s.mode is dra" $device $device) -}}
{{- end -}}
{{- end -}}
{{- if and $v.worker.rdma.matchAttribute (or (ne $v.worker.rdma.mode "dra") (ne $v.worker.gpu.mode "dra")) -}}
{{- $errors = append $errors "worker.rdma.matchAttribute: needs dra for both the GPU and the device" -}}
{{- end -}}
{{- if and (or $v.worker.imageTag $v.worker.imageDigest) (not $v.worker.imageRepository) -}}
{{- $errors = append $errors "worker.imageTag, worker.imageDigest: name worker.imageRepository, too" -}}
{{- end -}}

{{- range $part := list "router" "gateway" "worker" -}}
{{- $have := get $v.tls.existing (printf "%sSecret" $part) -}}
{{- $wanted := and (eq $v.tls.mode "existing") (or (ne $part "gateway") (ne $v.gateway.mode "none")) -}}
{{- $why := eq $v.tls.mode "existing" | ternary "gateway.mode is none" (printf "tls.mode is %s" $v.tls.mode) -}}
{{- if and $wanted (not $have) -}}
{{- $errors = append $errors (printf "tls.existing.%sSecret: needed, as tls.mode is existing" $part) -}}
{{- else if and $have (not $wanted) -}}
{{- $errors = append $errors (printf "tls.existing.%sSecret: has no effect, as %s" $part $why) -}}
{{- end -}}
{{- end -}}

{{- if and $v.serviceAccount.create (eq $v.serviceAccount.name "default") -}}
{{- $errors = append $errors "serviceAccount.name: default is there in every namespace; take another name, or serviceAccount.create false" -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- $errors = append $errors "serviceAccount.name: needed, as serviceAccount.create is false" -}}
{{- end -}}

{{- range $check := list "choir.wrongNames" "choir.wrongLabels" "choir.wrongPaths" "choir.wrongImages" "choir.wrongAmounts" "choir.wrongDevices" "choir.wrongNetwork" "choir.wrongObjects" "choir.wrongConfig" "choir.withoutEffect" -}}
{{- range include $check $ | splitList "\n" -}}
{{- with trim . -}}{{- $errors = append $errors . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- if $errors -}}
{{- fail (printf "\n\nThese values cannot work:\n  - %s\n" (join "\n  - " $errors)) -}}
{{- /* `helm lint` goes on after fail; it does not after a template that is not there. */ -}}
{{- include (printf "These values cannot work: %s" (join "; " $errors)) . -}}
{{- end -}}
{{- end -}}
