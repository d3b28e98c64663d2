{{/* Networks, as 10.0.0.0/8 or 2001:db8::/32. */}}

{{/* A network as JSON: `words` of 16 bits, `bits` of the prefix (-1: none is given); {} when the text is none. */}}
{{- define "choir.network" -}}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" -}}
{{- $parts := splitList "/" . -}}
{{- $address := first $parts -}}
{{- $words := list -}}
{{- if regexMatch (printf "^(%s[.]){3}%s$" $byte $byte) $address -}}
{{- $bytes := splitList "." $address -}}
{{- range $i := list 0 2 -}}{{- $words = append $words (add (mul 256 (index $bytes $i | int)) (index $bytes (add1 $i | int) | int)) -}}{{- end -}}
{{- else -}}
{{- $address = regexReplaceAll (printf "(%s[.]){3}%s$" $byte $byte) $address "0:0" -}}{{/* ::ffff:10.0.0.0 */}}
{{- $short := contains "::" $address -}}
{{- $groups := regexFindAll "[0-9a-fA-F]+" $address -1 -}}
{{- $shape := $short | ternary "^([0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*)?::([0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*)?$" "^[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}$" -}}
{{- if and (regexMatch $shape $address) (le (len $groups) ($short | ternary 7 8)) -}}
{{- $left := splitList "::" $address | first -}}
{{- range regexFindAll "[0-9a-fA-F]+" $left -1 -}}{{- $words = append $words (printf "0x%s" . | int64) -}}{{- end -}}
{{- range until (sub 8 (len $groups) | int) -}}{{- $words = append $words 0 -}}{{- end -}}
{{- range slice $groups (regexFindAll "[0-9a-fA-F]+" $left -1 | len) -}}{{- $words = append $words (printf "0x%s" . | int64) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $bits := -1 -}}
{{- if gt (len $parts) 1 -}}{{- $bits = regexMatch "^(0|[1-9][0-9]{0,2})$" (index $parts 1) | ternary (index $parts 1) "999" | int -}}{{- end -}}
{{- if or (not $words) (gt (len $parts) 2) (gt $bits (mul 16 (len $words) | int)) -}}{}
{{- else -}}{{- dict "words" $words "bits" $bits | toJson -}}{{- end -}}
{{- end -}}

{{/* The size of what a prefix of (index . 1) bits leaves of word number (index . 0): 1 to 65536. */}}
{{- define "choir.restOfWord" -}}
{{- $rest := 1 -}}
{{- range until (sub 16 (max 0 (min 16 (sub (index . 1) (mul 16 (index . 0))))) | int) -}}{{- $rest = mul 2 $rest -}}{{- end -}}
{{- $rest -}}
{{- end -}}

{{/* What is wrong with a network of the configuration file, where the mask may be left out; empty: nothing. */}}
{{- define "choir.networkFault" -}}
{{- $network := include "choir.network" . | fromJson -}}
{{- if not $network -}}it is no network; write for example 10.0.0.0/8 or 2001:db8::/32
{{- else if ge (int $network.bits) 0 -}}
{{- $beyond := false -}}
{{- range $i, $word := $network.words -}}
{{- if mod $word (include "choir.restOfWord" (list $i $network.bits) | int64) -}}{{- $beyond = true -}}{{- end -}}
{{- end -}}
{{- if $beyond -}}the address has bits beyond the prefix; write the network's first address{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is wrong with a block of addresses of a NetworkPolicy and the blocks that it leaves out; empty: nothing. */}}
{{- define "choir.blockFault" -}}
{{- $block := include "choir.network" .cidr | fromJson -}}
{{- if or (not $block) (lt (int $block.bits) 0) -}}{{ .cidr }}: a block of addresses is written with its mask, as 10.0.0.0/8
{{- else -}}
{{- $fault := "" -}}
{{- range $text := .except -}}
{{- $hole := include "choir.network" $text | fromJson -}}
{{- if or (not $hole) (lt (int $hole.bits) 0) -}}
{{- $fault = printf "%s: a block of addresses is written with its mask, as 10.0.0.0/8" $text -}}
{{- else -}}
{{- $within := and (eq (len $hole.words) (len $block.words)) (gt (int $hole.bits) (int $block.bits)) -}}
{{- if $within -}}
{{- range $i, $word := $block.words -}}
{{- $rest := include "choir.restOfWord" (list $i $block.bits) | int64 -}}
{{- if ne (div $word $rest) (div (index $hole.words $i) $rest) -}}{{- $within = false -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $within -}}{{- $fault = printf "%s: is left out of %s, so it has to be a part of it" $text $.cidr -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $fault -}}
{{- end -}}
{{- end -}}
