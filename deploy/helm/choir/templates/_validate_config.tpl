{{/* Parts of choir.validate that look at the sections of the configuration file: what the programs would refuse at their start.
Each writes a line for each value that is wrong. */}}

{{/* What the chart sets by flags, which win over the file, or by values of its own. */}}
{{- define "choir.reserved" -}}
router: [listen, admin, model, model_name, keys, workers, workers_file, tls, insecure, audit.class, audit.dir, audit.keys_dir, redis.url,
  redis.url_file, drain_timeout, drain_notice, retry_start, tenants, limits, jwt.jwks]
gateway: [listen, admin, routers, spread_routers, tls, insecure, router_tls, router_insecure, drain_timeout, drain_notice, retry_start]
worker: [model, model_name, weights_digest, group, rank, ranks, leader, listen, admin, advertise, group_listen, pod, kv_bytes, threads, tls,
  insecure, drain_timeout, retry_start, cache_dir]
{{- end -}}

{{/* The value at (index . 1), as "audit.class", in the map (index . 0), as JSON; empty: there is none. */}}
{{- define "choir.at" -}}
{{- $at := index . 0 -}}
{{- range splitList "." (index . 1) -}}
{{- $at = and (kindIs "map" $at) (hasKey $at .) | ternary (get (kindIs "map" $at | ternary $at dict) .) nil -}}
{{- end -}}
{{- if not (kindIs "invalid" $at) -}}{{- toJson $at -}}{{- end -}}
{{- end -}}

{{- define "choir.wrongConfig" -}}
{{- $v := .Values -}}
{{- range $part, $paths := include "choir.reserved" . | fromYaml }}
{{- range $path := $paths }}
{{- if include "choir.at" (list (get $v $part).config $path) }}
{{ $part }}.config.{{ $path }}: the chart sets this itself; use its own value for it
{{- end }}
{{- end }}
{{- end }}
{{- range $part := list "router" "gateway" "worker" }}
{{- if not (dig "trace" "endpoint" "" (get $v $part).config) }}
{{- range $key, $_ := omit (default dict (get $v $part).config.trace) "endpoint" }}
{{ $part }}.config.trace.{{ $key }}: has no effect, as {{ $part }}.config.trace.endpoint is empty: nothing is traced
{{- end }}
{{- end }}
{{- with dig "trace" "endpoint" "" (get $v $part).config }}
{{- $port := regexFind "[0-9]+$" . }}
{{- if or (not (regexMatch "^([A-Za-z0-9._-]+|[[][0-9A-Fa-f:.]+[]]):[0-9]{1,5}$" .)) (lt (atoi $port) 1) (gt (atoi $port) 65535) }}
{{ $part }}.config.trace.endpoint: {{ . }} is not host:port with a port from 1 to 65535, as otel.telemetry:4317
{{- end }}
{{- end }}
{{- end }}
{{- include "choir.wrongRanges" . }}
{{- include "choir.wrongRedis" . }}
{{- include "choir.wrongLimits" . }}
{{- include "choir.wrongAdmission" . }}
{{- include "choir.wrongRules" . }}
{{- include "choir.wrongIdentity" . }}
{{- range $i, $network := $v.gateway.config.trusted_proxies }}
{{- with include "choir.networkFault" $network }}
gateway.config.trusted_proxies[{{ $i }}]: {{ $network }}: {{ . }}
{{- end }}
{{- end }}
{{- range $i, $origin := $v.gateway.config.cors_origins }}
{{- if not (regexMatch "^([*]|https?://[][A-Za-z0-9.:-]+)$" $origin) }}
gateway.config.cors_origins[{{ $i }}]: {{ $origin }} is no origin: write https://host or https://host:port, without a path, or *
{{- end }}
{{- end }}
{{- $cpu := default "auto" $v.worker.config.cpu_path }}
{{- $cpuExperts := default 0 $v.worker.config.cpu_experts | toString -}}
{{- if and (eq (default "cpu" $v.worker.config.device) "cuda") (ne $cpu "auto") (eq $cpuExperts "0") }}
worker.config.cpu_path: {{ $cpu }}: worker.config.device cuda computes on the GPU, leave one of them out or give worker.config.cpu_experts
{{- end }}
{{- if and (ne $cpuExperts "0") (eq (default "cpu" $v.worker.config.device) "cpu") }}
worker.config.cpu_experts: {{ $cpuExperts }}: with worker.config.device cpu the CPU computes all experts, leave it out
{{- end }}
{{- if and (ne $cpuExperts "0") $v.worker.config.redundant_experts }}
worker.config.cpu_experts: {{ $cpuExperts }}: experts that move would have other bits on the CPU than on the GPU, leave out worker.config.redundant_experts
{{- end }}
{{- if and $v.worker.config.expert_hotness (eq $cpuExperts "0") }}
worker.config.expert_hotness: says which experts the CPU computes, give worker.config.cpu_experts, too
{{- end }}
{{- $gpu := default "auto" $v.worker.config.cuda_kernels }}
{{- if and (eq (default "cpu" $v.worker.config.device) "cpu") (ne $gpu "auto") }}
worker.config.cuda_kernels: {{ $gpu }}: worker.config.device cpu does not use the GPU, leave one of them out
{{- end }}
{{- if eq (default "cpu" $v.worker.config.device) "cpu" }}
{{- if eq (default "auto" $v.worker.config.device_exchange) "nccl" }}
worker.config.device_exchange: nccl: goes from GPU to GPU, and worker.config.device is cpu; give cuda there
{{- end }}
{{- if $v.worker.config.f8_rows }}
worker.config.f8_rows: is for experts on a GPU, and worker.config.device is cpu; give cuda there, or leave it out
{{- end }}
{{- end }}
{{- $slotRows := hasKey $v.worker.config "slot_rows" | ternary $v.worker.config.slot_rows 16 | int }}
{{- $microBatchRows := default 0 $v.worker.config.micro_batch_rows | int }}
{{- if and $microBatchRows (le $microBatchRows $slotRows) }}
worker.config.micro_batch_rows: {{ $microBatchRows }}: steps of up to {{ $slotRows }} rows (worker.config.slot_rows) go in slots and in one piece; give more than that, or 0
{{- end }}
{{- $stepTokens := default 512 $v.worker.config.step_tokens | int }}
{{- if gt $microBatchRows $stepTokens }}
worker.config.micro_batch_rows: {{ $microBatchRows }}: no step has more than {{ $stepTokens }} rows (worker.config.step_tokens); give no more than that, or 0
{{- end }}
{{- include "choir.wrongPlacement" . }}
{{- include "choir.wrongExpertFiles" . }}
{{- end -}}

{{/* Files of worker.config have to be where a volume is: nothing else of a pod outlives it or is there before it. */}}
{{- define "choir.wrongExpertFiles" -}}
{{- $v := .Values -}}{{- $files := $v.worker.expertFiles -}}
{{- $counts := default "" $v.worker.config.expert_counts | trimSuffix "/" -}}
{{- $hotness := default list $v.worker.config.expert_hotness -}}
{{- $kept := "/var/lib/choir-experts" -}}
{{- $readable := list (printf "%s/" $v.model.path) -}}
{{- if $files.existingConfigMap }}{{- $readable = append $readable "/etc/choir/experts/" }}{{- end -}}
{{- if $files.claimName }}{{- $readable = append $readable (printf "%s/" $kept) }}{{- end -}}
{{- $used := join " " (append $hotness (printf "%s/" $counts)) -}}
{{- range $i, $file := $hotness }}
{{- $found := false -}}
{{- range $readable }}{{- if hasPrefix . $file }}{{- $found = true }}{{- end }}{{- end -}}
{{- if or (not $found) (regexMatch "/[.][.](/|$)" $file) }}
worker.config.expert_hotness[{{ $i }}]: {{ $file }} is in no volume of the pods, or not written without `..`; name files of worker.expertFiles.existingConfigMap in /etc/choir/experts, or of worker.expertFiles.claimName in {{ $kept }}
{{- else if and $counts (regexMatch (printf "^%s/+g[0-9]+r[0-9]+[.]json$" (regexQuoteMeta $counts)) $file) }}
worker.config.expert_hotness[{{ $i }}]: {{ $file }} is written by ranks that end (worker.config.expert_counts), and one that starts anew would read other counts than its group; copy it to another name
{{- end }}
{{- end }}
{{- if and $v.worker.config.expert_counts (or (not $files.claimName) (not (hasPrefix (printf "%s/" $kept) (printf "%s/" $counts))) (regexMatch "/[.][.](/|$)" $counts)) }}
worker.config.expert_counts: {{ $v.worker.config.expert_counts }}: what a rank leaves there is lost with its pod, or it cannot write there; give worker.expertFiles.claimName, and a directory in {{ $kept }} here
{{- end }}
{{- if and $files.existingConfigMap (not (contains "/etc/choir/experts/" $used)) }}
worker.expertFiles.existingConfigMap: has no effect, as worker.config.expert_hotness names no file in /etc/choir/experts
{{- end }}
{{- if and $files.claimName (not (contains (printf "%s/" $kept) $used)) }}
worker.expertFiles.claimName: has no effect, as neither worker.config.expert_counts nor expert_hotness is in {{ $kept }}
{{- end }}
{{- end -}}

{{/* Experts of a layer that a rank may hold: an even share, rounded up, and the redundant ones; 0: model.experts does not say. */}}
{{- define "choir.expertSlots" -}}
{{- $ranks := int .Values.worker.ranks -}}{{- $experts := int .Values.model.experts -}}
{{- add (div (add $experts $ranks -1) $ranks) (default 0 .Values.worker.config.redundant_experts | int) | min $experts -}}
{{- end -}}

{{/* Where experts lie, as worker/config.cc and worker/engine/make_engine.cc have it. */}}
{{- define "choir.wrongPlacement" -}}
{{- $v := .Values -}}
{{- $redundant := int (default 0 $v.worker.config.redundant_experts) -}}
{{- $ranks := int $v.worker.ranks -}}{{- $experts := int $v.model.experts -}}
{{- $share := div (add $experts $ranks -1) $ranks -}}
{{- if and $redundant (eq $ranks 1) }}
worker.config.redundant_experts: {{ $redundant }}: with worker.ranks 1 one rank holds all experts; leave it out
{{- else if and $redundant $experts (gt $redundant (sub $experts $share | int)) }}
worker.config.redundant_experts: {{ $redundant }} is not in 0..{{ sub $experts $share }}: of the {{ $experts }} experts of a layer (model.experts) each of {{ $ranks }} ranks holds {{ $share }} already
{{- end }}
{{- if and $redundant $v.model.weightBytes (not $experts) }}
model.experts: needed, as model.weightBytes is there to be checked, and worker.config.redundant_experts are {{ $redundant }} more of a number of experts that only you know
{{- end }}
{{- if and $v.worker.config.expert_cover (not $redundant) }}
worker.config.expert_cover: second copies of experts need {{ eq $ranks 1 | ternary "a second rank; leave it out, or give more worker.ranks" "room; give worker.config.redundant_experts" }}{{ if and $experts (gt $ranks 1) }}, {{ sub (div (add (mul 2 $experts) $ranks -1) $ranks) $share }} for all of them{{ end }}
{{- end }}
{{- end -}}

{{/* A size or a time of the configuration file, as a number of bytes or seconds. */}}
{{- define "choir.fileAmount" -}}
{{- $units := dict "B" 1.0 "KiB" 1024.0 "MiB" 1048576.0 "GiB" 1073741824.0 "TiB" 1099511627776.0 "KB" 1e3 "MB" 1e6 "GB" 1e9 "TB" 1e12
  "us" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $unit := regexFind "[A-Za-z]*$" . -}}
{{- mulf (trimSuffix $unit . | trim | float64) (default 1.0 (get $units $unit)) -}}
{{- end -}}

{{/* Texts only: the schema compares numbers. */}}
{{- define "choir.wrongRanges" -}}
{{- range $part, $ranges := include "choir.ranges" . | fromYaml }}
{{- $config := (get $.Values $part).config }}
{{- range $path, $range := $ranges }}
{{- if hasKey $config (splitList "." $path | first) }}
{{- $value := include "choir.at" (list $config $path) }}
{{- if hasPrefix "\"" $value }}
{{- $amount := include "choir.fileAmount" (fromJsonArray (printf "[%s]" $value) | first) | float64 }}
{{- if or (lt $amount (index $range 0 | float64)) (gt $amount (index $range 1 | float64)) }}
{{ $part }}.config.{{ $path }}: {{ $value }} is not from {{ index $range 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongRedis" -}}
{{- $v := .Values -}}
{{- $redis := default dict $v.router.config.redis }}
{{- if and $redis (not $v.redis.existingSecret) }}
router.config.redis: has no effect, as redis.existingSecret is empty
{{- end }}
{{- if and (eq (dig "result_cache" "store" "" $v.router.config) "redis") (not $v.redis.existingSecret) }}
router.config.result_cache.store: redis needs redis.existingSecret
{{- end }}
{{- range $key := list "ca" "cert" "key" }}
{{- $file := default "" (get $redis $key) }}
{{- if and $file (or (not (regexMatch "^/etc/(choir|ssl)/" $file)) (regexMatch "/[.][.](/|$)" $file)) }}
router.config.redis.{{ $key }}: {{ $file }} is not in the pod, or not written without `..`; the keys of redis.existingSecret are files in /etc/choir/redis
{{- end }}
{{- end }}
{{- if ne (empty $redis.cert) (empty $redis.key) }}
router.config.redis.cert, router.config.redis.key: one is no use without the other, give both
{{- end }}
{{- end -}}

{{- define "choir.wrongLimits" -}}
{{- $v := .Values -}}
{{- $budgets := list -}}
{{- range $path, $rules := dict "router.limits.global" (dig "global" dict $v.router.limits) "router.limits.default" (dig "default" dict $v.router.limits) }}
{{- if hasKey $rules "budget" }}{{- $budgets = append $budgets (printf "%s.budget" $path) }}{{- end }}
{{- end }}
{{- range $name, $rules := dig "models" dict $v.router.limits }}
{{- if ne $name (include "choir.modelName" $) }}
router.limits.models.{{ $name }}: has no effect, as the only model is {{ include "choir.modelName" $ }} (model.name, else the last part of model.path)
{{- end }}
{{- if hasKey $rules "budget" }}{{- $budgets = append $budgets (printf "router.limits.models.%s.budget" $name) }}{{- end }}
{{- end }}
{{- range $name, $rules := $v.router.tenants }}
{{- if hasKey $rules "budget" }}{{- $budgets = append $budgets (printf "router.tenants.%s.budget" $name) }}{{- end }}
{{- end }}
{{- range $i, $rule := $v.router.config.certificates }}
{{- if hasKey (default dict $rule.limits) "budget" }}{{- $budgets = append $budgets (printf "router.config.certificates[%d].limits.budget" $i) }}{{- end }}
{{- end }}
{{- $prices := 0.0 }}
{{- range values (default dict $v.router.limits.prices) }}{{- $prices = addf $prices . }}{{- end }}
{{- if and $budgets (not $prices) }}
router.limits.prices: needed, as there is a budget ({{ first $budgets }}): give what a million tokens cost, as {prompt: 0.27, output: 1.1}
{{- end }}
{{- if and $budgets (gt (int $v.router.replicas) 1) (not $v.redis.existingSecret) }}
{{ first $budgets }}: {{ $v.router.replicas }} routers would count it each on its own, so that {{ $v.router.replicas }} times as much could be spent; give redis.existingSecret, or router.replicas 1
{{- end }}
{{- end -}}

{{/* As router/admission/admission_config.cc has it; a share is a part of all sequences, a number is not. */}}
{{- define "choir.wrongAdmission" -}}
{{- $classes := default dict .Values.router.config.admission -}}
{{- $kept := 0.0 -}}
{{- range $class, $floor := dict "system" "0%" "interactive" "5%" "default" "5%" "bulk" "0%" }}
{{- $rules := default dict (get $classes $class) }}
{{- $floor = hasKey $rules "floor" | ternary $rules.floor $floor | toString }}
{{- $ceiling := hasKey $rules "ceiling" | ternary $rules.ceiling "100%" | toString }}
{{- $low := trimSuffix "%" $floor | float64 }}{{- $high := trimSuffix "%" $ceiling | float64 }}
{{- range $key, $text := dict "floor" $floor "ceiling" $ceiling }}
{{- if gt (trimSuffix "%" $text | float64) (hasSuffix "%" $text | ternary 100.0 1000000.0) }}
router.config.admission.{{ $class }}.{{ $key }}: {{ $text }} is neither a number of sequences from 0 to 1000000 nor a share from 0% to 100%
{{- end }}
{{- end }}
{{- if eq $high 0.0 }}
router.config.admission.{{ $class }}.ceiling: {{ $ceiling }}: must be above 0, or nothing of the class ever runs
{{- else if and (eq (hasSuffix "%" $floor) (hasSuffix "%" $ceiling)) (gt $low $high) }}
router.config.admission.{{ $class }}.floor: {{ $floor }} is above the ceiling, {{ $ceiling }}; lower one or raise the other
{{- end }}
{{- if hasSuffix "%" $floor }}{{- $kept = addf $kept $low }}{{- end }}
{{- end }}
{{- if gt $kept 100.0000001 }}
router.config.admission: the floors of all classes together are {{ $kept }}%, must be at most 100% (interactive and default have 5% each where they name none)
{{- end }}
{{- end -}}

{{/* Rules of one name in one place. Patterns are left to the program. */}}
{{- define "choir.wrongRules" -}}
{{- $seen := dict -}}
{{- range $i, $rule := .Values.router.config.content_rules }}
{{- $ons := eq (default "both" $rule.on) "both" | ternary (list "input" "output") (list $rule.on) }}
{{- $twice := false }}
{{- range $on := $ons }}
{{- range $tenant := default (list "") $rule.tenants }}
{{- $key := printf "%s\n%s" $rule.name $on }}
{{- $tenants := default list (get $seen $key) }}
{{- if or (has $tenant $tenants) (has "" $tenants) (and (eq $tenant "") $tenants) }}{{- $twice = true }}{{- end }}
{{- $_ := set $seen $key (append $tenants $tenant) }}
{{- end }}
{{- end }}
{{- if $twice }}
router.config.content_rules[{{ $i }}].name: {{ $rule.name }} is given twice; rename one
{{- end }}
{{- end }}
{{- end -}}

{{- define "choir.wrongIdentity" -}}
{{- $v := .Values -}}{{- $jwks := .Values.router.jwks -}}
{{- $jwt := default dict .Values.router.config.jwt -}}
{{- if and $jwks.existingSecret $jwks.existingConfigMap }}
router.jwks: existingSecret and existingConfigMap: the set lies in one of them, take the other out
{{- end }}
{{- if or $jwks.existingSecret $jwks.existingConfigMap }}
{{- if not $jwt.issuer }}
router.config.jwt.issuer: needed, as there is router.jwks: what `iss` of the tokens is
{{- end }}
{{- if or (not $jwt.audience) (has "" (default list $jwt.audience)) }}
router.config.jwt.audience: needed, as there is router.jwks: a list of what `aud` of tokens for us is
{{- end }}
{{- if and (hasKey $jwt "tenant_claim") (not $jwt.tenant_claim) }}
router.config.jwt.tenant_claim: a name is needed
{{- end }}
{{- range $key := list "tenant_claim" "models_claim" "networks_claim" "class_claim" }}
{{- $claim := default "" (get $jwt $key) }}
{{- if and (hasPrefix "/" $claim) (regexMatch "~([^01]|$)" $claim) }}
router.config.jwt.{{ $key }}: {{ $claim }} is no JSON pointer: after ~ there is 0 (for ~) or 1 (for /)
{{- end }}
{{- end }}
{{- else if or $jwt (ne $jwks.key "jwks.json") }}
router.config.jwt, router.jwks.key: have no effect, as neither router.jwks.existingSecret nor existingConfigMap names the public keys
{{- end }}
{{- range $i, $rule := $v.router.config.certificates }}
{{- range $j, $network := $rule.networks }}
{{- with include "choir.networkFault" $network }}
router.config.certificates[{{ $i }}].networks[{{ $j }}]: {{ $network }}: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.router.config.certificates (eq $v.tls.mode "off") }}
router.config.certificates: clients show them over TLS only, and tls.mode is off
{{- end }}
{{- end -}}
