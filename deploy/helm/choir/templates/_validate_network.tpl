{{/* Parts of choir.validate that look at what Kubernetes itself would refuse. Each writes a line for each value that is wrong. */}}

{{- define "choir.wrongPeer" -}}
{{- $path := index . 0 -}}{{- $peer := index . 1 -}}
{{- if $peer.ipBlock }}
{{- with include "choir.blockFault" $peer.ipBlock }}
{{ $path }}: {{ . }}
{{- end }}
{{- if or (hasKey $peer "podSelector") (hasKey $peer "namespaceSelector") }}
{{ $path }}: a peer is an ipBlock or has selectors, not both; make two peers of it
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongPort" -}}
{{- $path := index . 0 -}}{{- $port := index . 1 -}}
{{- if $port.endPort }}
{{- if or (not $port.port) (kindIs "string" $port.port) }}
{{ $path }}.endPort: {{ $port.endPort }} needs `port` as a number, the first of the range
{{- else if lt (int $port.endPort) (int $port.port) }}
{{ $path }}.endPort: {{ $port.endPort }} is less than port, {{ $port.port }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongNetwork" -}}
{{- $v := .Values -}}{{- $n := .Values.networkPolicy -}}
{{- range $key := list "clients" "routerClients" "monitoring" "redis" }}
{{- range $i, $peer := get $n $key }}
{{- include "choir.wrongPeer" (list (printf "networkPolicy.%s[%d]" $key $i) $peer) }}
{{- end }}
{{- end }}
{{- range $i, $peer := $n.routerClients }}
{{- if $peer.ipBlock }}
networkPolicy.routerClients[{{ $i }}].ipBlock: clients of routers are pods, known by their labels; name their namespaces by namespaceSelector
{{- end }}
{{- end }}
{{- range $key := list "routerEgress" "gatewayEgress" "workerEgress" }}
{{- range $i, $rule := get $n $key }}
{{- range $j, $peer := $rule.to }}
{{- include "choir.wrongPeer" (list (printf "networkPolicy.%s[%d].to[%d]" $key $i $j) $peer) }}
{{- end }}
{{- range $j, $port := $rule.ports }}
{{- include "choir.wrongPort" (list (printf "networkPolicy.%s[%d].ports[%d]" $key $i $j) $port) }}
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
{{- if and $collector (not (regexMatch "^(127[.]|localhost:|[[]::1)" $collector)) (not (get $n $key)) }}
networkPolicy.{{ $key }}: needed, as {{ $part }}.config.trace.endpoint is {{ $collector }}: spans would not leave the pod
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongTolerations" -}}
{{- range $part := list "router" "gateway" "worker" }}
{{- range $i, $t := (get $.Values $part).tolerations }}
{{- $path := printf "%s.tolerations[%d]" $part $i }}
{{- $operator := default "Equal" $t.operator }}
{{- if and (eq $operator "Exists") $t.value }}
{{ $path }}.value: {{ $t.value }}: with operator Exists there is none; take it out, or the operator
{{- end }}
{{- if and (ne $operator "Exists") (not $t.key) }}
{{ $path }}.key: needed, as operator is {{ $operator }}; to tolerate everything give operator Exists
{{- end }}
{{- if and (has $operator (list "Lt" "Gt")) (not (regexMatch "^-?(0|[1-9][0-9]{0,17})$" (default "" $t.value))) }}
{{ $path }}.value: {{ default "nothing" $t.value }}: operator {{ $operator }} compares with a whole number, as "10"
{{- end }}
{{- if and (hasKey $t "tolerationSeconds") (ne (default "" $t.effect) "NoExecute") }}
{{ $path }}.tolerationSeconds: only with effect NoExecute, which is what would end the pod
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of the requirements of selectors, wherever they are; call with (list PATH ANYTHING). */}}
{{- define "choir.wrongSelectors" -}}
{{- $path := index . 0 -}}{{- $at := index . 1 -}}
{{- if kindIs "slice" $at }}
{{- range $i, $inner := $at }}{{ include "choir.wrongSelectors" (list (printf "%s[%d]" $path $i) $inner) }}{{ end }}
{{- else if kindIs "map" $at }}
{{- if and (hasKey $at "key") (hasKey $at "operator") }}
{{- $values := default list $at.values }}
{{- if and (has $at.operator (list "In" "NotIn")) (not $values) }}
{{ $path }}.values: needed, as operator is {{ $at.operator }}
{{- else if and (has $at.operator (list "Exists" "DoesNotExist")) $values }}
{{ $path }}.values: with operator {{ $at.operator }} there are none; take them out
{{- else if and (has $at.operator (list "Gt" "Lt")) (not (and (eq (len $values) 1) (regexMatch "^-?[0-9]{1,18}$" (first $values)))) }}
{{ $path }}.values: operator {{ $at.operator }} compares with one whole number, as ["10"]
{{- end }}
{{- end }}
{{- range $i, $field := kindIs "slice" $at.matchFields | ternary $at.matchFields list }}
{{- if or (ne $field.key "metadata.name") (not (has $field.operator (list "In" "NotIn"))) (ne (len (default list $field.values)) 1) }}
{{ $path }}.matchFields[{{ $i }}]: the only field is metadata.name, with operator In or NotIn and one value
{{- end }}
{{- end }}
{{- range $key, $inner := $at }}{{ include "choir.wrongSelectors" (list (printf "%s.%s" $path $key) $inner) }}{{ end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongObjects" -}}
{{- include "choir.wrongTolerations" . }}
{{- include "choir.wrongSelectors" (list "router.affinity" .Values.router.affinity) }}
{{- include "choir.wrongSelectors" (list "gateway.affinity" .Values.gateway.affinity) }}
{{- include "choir.wrongSelectors" (list "worker.affinity" .Values.worker.affinity) }}
{{- include "choir.wrongSelectors" (list "networkPolicy" .Values.networkPolicy) }}
{{- end -}}
