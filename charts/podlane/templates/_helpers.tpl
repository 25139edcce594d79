{{- define "podlane.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/*
Room for "-injector" and what helpers append: names of Services have at most 63 characters. A revision is at the end, so that two of
them have nothing in common.
*/}}
{{- define "podlane.fullname" -}}
{{- $name := include "podlane.name" . -}}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $revision := empty .Values.revision | ternary "" (printf "-%s" .Values.revision) -}}
{{- default $both .Values.fullnameOverride | trimSuffix $revision | trunc (int (sub 40 (len $revision))) | trimSuffix "-" -}}
{{- $revision -}}
{{- end -}}

{{- define "podlane.injector" -}}
{{- include "podlane.fullname" . }}-injector
{{- end -}}

{{/* Cluster-wide, so with the namespace: two releases must not share one. */}}
{{- define "podlane.clusterName" -}}
{{- printf "%s-%s" (include "podlane.injector" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "podlane.webhookName" -}}
{{- .Values.webhook.namePrefix }}{{ include "podlane.injector" . }}
{{- end -}}

{{- define "podlane.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "podlane.injector" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false: name the account that exists." .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "podlane.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "podlane.selectorLabels" -}}
app.kubernetes.io/name: {{ include "podlane.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: injector
{{- end -}}

{{- define "podlane.agentSelectorLabels" -}}
app.kubernetes.io/name: {{ include "podlane.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{/* 52 characters at most, since a StatefulSet's Pods have its name with a hash as a label. A revision is at the end, and stays. */}}
{{- define "podlane.controlPlane" -}}
{{- include "podlane.fullname" . | trunc -38 | trimPrefix "-" }}-control-plane
{{- end -}}

{{- define "podlane.controlPlaneSelectorLabels" -}}
app.kubernetes.io/name: {{ include "podlane.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: control-plane
{{- end -}}

{{- define "podlane.controlPlaneLabels" -}}
{{ include "podlane.controlPlaneSelectorLabels" . }}
{{ include "podlane.commonLabels" . }}
{{- end -}}

{{- define "podlane.controlPlaneImage" -}}
{{- $image := .Values.controlPlane.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether somebody follows changes of TrafficPolicies: agents, or the operator for sidecars. */}}
{{- define "podlane.hasPolicies" -}}
{{- if or .Values.agent.enabled (and .Values.operator.enabled .Values.operator.alone) }}true{{ end -}}
{{- end -}}

{{/* 52 characters at most, as above: of a Deployment. */}}
{{- define "podlane.operator" -}}
{{- include "podlane.fullname" . | trunc -43 | trimPrefix "-" }}-operator
{{- end -}}

{{- define "podlane.operatorSelectorLabels" -}}
app.kubernetes.io/name: {{ include "podlane.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "podlane.operatorLabels" -}}
{{ include "podlane.operatorSelectorLabels" . }}
{{ include "podlane.commonLabels" . }}
{{- end -}}

{{- define "podlane.agentLabels" -}}
{{ include "podlane.agentSelectorLabels" . }}
{{ include "podlane.commonLabels" . }}
{{- end -}}

{{- define "podlane.labels" -}}
{{ include "podlane.selectorLabels" . }}
{{ include "podlane.commonLabels" . }}
{{- end -}}

{{- define "podlane.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: podlane
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
self-managed, cert-manager or secret: what certificates.source means here. An injector that has made its own (whose Secret has the
authority's key, as cert-manager's has not) stays with them, should cert-manager come to the cluster later.
*/}}
{{- define "podlane.certificates" -}}
{{- if ne .Values.certificates.source "auto" -}}
{{- .Values.certificates.source -}}
{{- else if not (.Capabilities.APIVersions.Has "cert-manager.io/v1/Certificate") -}}
self-managed
{{- else if dig "data" "ca.key" "" (lookup "v1" "Secret" .Release.Namespace (printf "%s-certificates" (include "podlane.injector" .))) -}}
self-managed
{{- else -}}
cert-manager
{{- end -}}
{{- end -}}

{{- define "podlane.secretName" -}}
{{- if eq (include "podlane.certificates" .) "secret" -}}
{{- required "certificates.secretName is needed where certificates.source is secret: name the Secret (kubernetes.io/tls) with the certificate." .Values.certificates.secretName -}}
{{- else -}}
{{- include "podlane.injector" . }}-certificates
{{- end -}}
{{- end -}}

{{/* For metadata of what is cluster-wide: it goes with the namespace. */}}
{{- define "podlane.ownedByNamespace" -}}
{{- if .Values.webhook.ownedByNamespace }}
{{- with lookup "v1" "Namespace" "" .Release.Namespace }}
ownerReferences:
  - apiVersion: v1
    kind: Namespace
    name: {{ .metadata.name }}
    uid: {{ .metadata.uid }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A NetworkPolicyEgressRule: names may be asked for, wherever the cluster's name service is. */}}
{{- define "podlane.nameServices" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/*
How the agent reaches its control plane: variables, mount and volume. Empty unless it has one.
*/}}
{{- define "podlane.agentControlPlaneEnvironment" -}}
{{- with .Values.agent.controlPlane }}
{{- if .address -}}
- name: PODLANE_AGENT_CONTROL_PLANE
  value: {{ .address | quote }}
- name: PODLANE_AGENT_CLUSTER
  value: {{ required "agent.controlPlane.cluster is needed with an address: the control plane's name of this cluster, TENANT/CLUSTER." .cluster }}
- name: PODLANE_AGENT_SERVICE_ACCOUNT_TOKEN
  value: /etc/podlane/control-plane/token
- name: PODLANE_AGENT_CONTROL_PLANE_CA
  value: /etc/podlane/control-plane/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "podlane.agentControlPlaneVolume" -}}
{{- with .Values.agent.controlPlane }}
{{- if .address -}}
- name: control-plane
  projected:
    defaultMode: 0400
    sources:
      # Says who it is: the control plane has the API server asked on which node its Pod is.
      - serviceAccountToken:
          audience: podlane
          path: token
          expirationSeconds: 3600
      {{- if .ca.configMap }}
      - configMap:
          name: {{ .ca.configMap }}
          items: [{key: {{ .ca.key }}, path: ca.crt}]
      {{- else }}
      - secret:
          name: {{ required "agent.controlPlane.ca is needed with an address: name a ConfigMap or a Secret that has what `podlane clusters ca` prints." .ca.secret }}
          items: [{key: {{ .ca.key }}, path: ca.crt}]
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Its certificate, and what the control plane said last. */}}
{{- define "podlane.agentDataVolume" -}}
- name: data
  hostPath:
    path: /var/lib/podlane/agent
    type: DirectoryOrCreate
{{- end -}}

{{/* A NetworkPolicyPeer: the Pods of `helm test`. */}}
{{- define "podlane.testPeer" -}}
{{- if .Values.tests.enabled -}}
- podSelector:  # helm test
    matchLabels:
      {{- include "podlane.selectorLabels" . | replace "component: injector" "component: test" | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* What both webhook configurations have in common, the `webhooks` list left out. */}}
{{- define "podlane.webhookMetadata" -}}
name: {{ include "podlane.webhookName" . }}
labels:
  {{- include "podlane.labels" . | nindent 2 }}
{{- if eq (include "podlane.certificates" .) "cert-manager" }}
annotations:
  cert-manager.io/inject-ca-from: {{ printf "%s/%s" .Release.Namespace (include "podlane.secretName" .) }}
{{- end }}
{{- include "podlane.ownedByNamespace" . }}
{{- end -}}

{{/*
Whom this installation serves, as a list of at most one requirement (matchExpressions) on the label podlane.io/rev. A revision takes what
has its name. The default installation takes all but what it has been told is another's: so a label that names nobody frees no Pod.
*/}}
{{- define "podlane.revision" -}}
{{- if .Values.revision -}}
- key: podlane.io/rev
  operator: In
  values: [{{ .Values.revision | quote }}]
{{- else if .Values.otherRevisions -}}
- key: podlane.io/rev
  operator: NotIn
  values:
    {{- toYaml .Values.otherRevisions | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* The end of webhooks' names, as in namespace.inject.canary.podlane.io. */}}
{{- define "podlane.domain" -}}
{{- with .Values.revision }}{{ . }}.{{ end }}podlane.io
{{- end -}}

{{/* Namespaces that are never injected, as a list. */}}
{{- define "podlane.excluded" -}}
{{- append .Values.webhook.excludedNamespaces .Release.Namespace | uniq | toYaml -}}
{{- end -}}

{{/* Where a webhook is asked, and how. Dict: root, path. */}}
{{- define "podlane.webhookCall" -}}
admissionReviewVersions: [v1]
clientConfig:
  service:
    name: {{ include "podlane.injector" .root }}
    namespace: {{ .root.Release.Namespace }}
    path: {{ .path }}
    port: 443
  {{- if eq (include "podlane.certificates" .root) "secret" }}
  caBundle: {{ required "certificates.caBundle is needed where certificates.source is secret: the authority (PEM) by which API servers check the certificate." .root.Values.certificates.caBundle | b64enc }}
  {{- end }}
matchPolicy: Equivalent
timeoutSeconds: {{ .root.Values.webhook.timeoutSeconds }}
{{- end -}}

{{/* About which Pods: those that are created or changed (the operation). A dry run writes no Event. */}}
{{- define "podlane.aboutPods" -}}
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [{{ . }}]
    resources: [pods]
    scope: Namespaced
sideEffects: NoneOnDryRun
{{- end -}}

{{/* In which namespaces the webhooks of a kind are asked. Dict: root, who (namespace, pod, enforced or agent). */}}
{{- define "podlane.namespaces" -}}
namespaceSelector:
  matchExpressions:
    - key: podlane.io/enforce
      operator: {{ eq .who "enforced" | ternary "In" "NotIn" }}
      values: ["true"]
    {{- if eq .who "agent" }}
    - key: podlane.io/mode
      operator: In
      values: [agent]
    {{- end }}
    {{- if ne .who "enforced" }}
    - key: podlane.io/inject
      operator: {{ eq .who "namespace" | ternary "In" "NotIn" }}
      values: [enabled]
    {{- end }}
    {{- if ne .who "pod" }}
    {{- with include "podlane.revision" .root }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- include "podlane.excluded" .root | nindent 8 }}
{{- end -}}

{{/* A CEL expression: whether a workload's template has a label with one of some values. Dict: key, values. */}}
{{- define "podlane.templateLabel" -}}
{{- $has := list -}}
{{- range list "object.spec.jobTemplate.spec.template" "object.spec.template" -}}
{{- $labels := printf "%s.metadata.labels" . -}}
{{- $has = append $has (printf "has(%s.metadata) && has(%s) && %q in %s && %s[%q] in %s" . $labels $.key $labels $labels $.key (toJson $.values)) -}}
{{- end -}}
(has(object.spec.jobTemplate) ? {{ index $has 0 }} : {{ index $has 1 }})
{{- end -}}

{{/*
The webhooks of a configuration. Dict: root, path, verb (inject or validate), mutating (adds what only mutating ones have).
Whatever labels say, no Pod is meant by two: the first is for namespaces that opted in, the second for Pods that did in all others, the third
for namespaces that enforce limits, where labels of Pods decide nothing. The revision is said where the choice is made: by the namespace,
or by the Pod that opted in itself.
*/}}
{{- define "podlane.webhooks" -}}
{{- $root := .root -}}
{{- $call := . -}}
{{- $revision := include "podlane.revision" $root -}}
{{- range $who := list "namespace" "pod" "enforced" }}
{{- $enforced := eq $who "enforced" }}
- name: {{ $who }}.{{ $call.verb }}.{{ include "podlane.domain" $root }}
  {{- include "podlane.webhookCall" (dict "root" $root "path" ($enforced | ternary (printf "%s/enforced" $call.path) $call.path)) | nindent 2 }}
  {{- include "podlane.aboutPods" "CREATE" | nindent 2 }}
  {{- if $call.mutating }}
  reinvocationPolicy: IfNeeded
  {{- end }}
  failurePolicy: {{ $root.Values.webhook.failurePolicy }}
  {{- include "podlane.namespaces" (dict "root" $root "who" $who) | nindent 2 }}
  {{- if not $enforced }}
  objectSelector:
    matchExpressions:
      - key: podlane.io/inject
        operator: {{ eq $who "namespace" | ternary "NotIn" "In" }}
        values: [{{ eq $who "namespace" | ternary "false" "true" | quote }}]
      {{- if and $revision (eq $who "pod") }}
      {{- $revision | nindent 6 }}
      {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
The webhook for annotations of Pods that have a sidecar already, whatever labels say by now. The API server itself looks (matchConditions)
whether those that Podlane reads, or the sidecar's image, have changed: for all else that happens to Pods nobody is asked. And no Pod has to wait for an injector
(Ignore), since its sidecar refuses wrong annotations itself, but in its log. It is the namespace that says which revision is asked: whoever
may change a Pod can change its labels, and with them whose rules hold.
*/}}
{{- define "podlane.updateWebhook" -}}
- name: update.validate.{{ include "podlane.domain" . }}
  {{- include "podlane.webhookCall" (dict "root" . "path" "/validate") | nindent 2 }}
  {{- include "podlane.aboutPods" "UPDATE" | nindent 2 }}
  failurePolicy: Ignore
  namespaceSelector:
    matchExpressions:
      {{- with include "podlane.revision" . }}
      {{- . | nindent 6 }}
      {{- end }}
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values:
          {{- include "podlane.excluded" . | nindent 10 }}
  matchConditions:
    - name: has-a-sidecar
      expression: has(oldObject.metadata.annotations) && "podlane.io/status" in oldObject.metadata.annotations
    - name: limits-change
      expression: >-
        !has(object.metadata.annotations)
        || oldObject.metadata.annotations.exists(name,
        {{ include "podlane.ours" . }}
        && !(name in object.metadata.annotations && object.metadata.annotations[name] == oldObject.metadata.annotations[name]))
        || object.metadata.annotations.exists(name,
        {{ include "podlane.ours" . }}
        && !(name in oldObject.metadata.annotations))
        || has(object.spec.initContainers) && object.spec.initContainers.exists(new, new.name == "podlane"
        && !oldObject.spec.initContainers.exists(old, old.name == new.name && old.image == new.image))
{{- end -}}

{{/*
The webhook for TrafficPolicies and ClusterTrafficPolicies whose spec is written or changed: what the rules of their definitions cannot say, and
warnings about their Pods. None has to wait for an injector (Ignore), since agents refuse the same. The API server itself looks (matchConditions)
for all else that happens to them, as to their labels and finalizers: nobody is asked, and neither about one that is being deleted.
*/}}
{{- define "podlane.policyWebhook" -}}
{{- if include "podlane.hasPolicies" . }}
- name: policies.validate.{{ include "podlane.domain" . }}
  {{- include "podlane.webhookCall" (dict "root" . "path" "/validate/policies") | nindent 2 }}
  rules:
    - apiGroups: [podlane.io]
      apiVersions: [v1alpha1]
      operations: [CREATE, UPDATE]
      resources: [trafficpolicies, clustertrafficpolicies]
      scope: "*"
  sideEffects: None
  failurePolicy: Ignore
  matchConditions:
    - name: stays
      expression: "!has(object.metadata.deletionTimestamp)"
    - name: spec-changes
      expression: oldObject == null || object.spec != oldObject.spec
{{- end }}
{{- end -}}

{{/* CEL: whether an annotation's name is of those that Podlane reads. */}}
{{- define "podlane.ours" -}}
(name.startsWith("podlane.io/") || name in ["kubernetes.io/egress-bandwidth", "kubernetes.io/ingress-bandwidth"])
{{- end -}}

{{/* CEL: whether an update adds, changes or takes away such an annotation. */}}
{{- define "podlane.limitsChange" -}}
has(object.metadata.annotations) && object.metadata.annotations.exists(name, {{ include "podlane.ours" . }}
&& !(has(oldObject.metadata.annotations) && name in oldObject.metadata.annotations
&& object.metadata.annotations[name] == oldObject.metadata.annotations[name]))
|| has(oldObject.metadata.annotations) && oldObject.metadata.annotations.exists(name, {{ include "podlane.ours" . }}
&& !(has(object.metadata.annotations) && name in object.metadata.annotations))
{{- end -}}

{{/*
The webhooks for annotations of Pods that agents hold, when they are created and whenever these change. Nothing is injected into such Pods,
and none has to wait for an injector (Ignore): their agents refuse wrong annotations, too, but by an Event. The first is for namespaces that
say so by their label, the second for Pods in others, the third for Pods for which no label says who holds them, where agents hold these.
*/}}
{{- define "podlane.agentWebhooks" -}}
{{- $root := . -}}
{{- if .Values.agent.enabled }}
{{- range $who := eq .Values.agent.mode "agent" | ternary (list "namespace" "pod" "default") (list "namespace" "pod") }}
- name: {{ $who }}.agent.{{ include "podlane.domain" $root }}
  {{- include "podlane.webhookCall" (dict "root" $root "path" (eq $who "default" | ternary "/validate/agent/by-default" "/validate/agent")) | nindent 2 }}
  {{- include "podlane.aboutPods" "CREATE, UPDATE" | nindent 2 }}
  failurePolicy: Ignore
  namespaceSelector:
    matchExpressions:
      - key: podlane.io/mode
        operator: {{ eq $who "namespace" | ternary "In" "NotIn" }}
        values: [{{ eq $who "default" | ternary "agent, sidecar, none" "agent" }}]
      {{- with include "podlane.revision" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values:
          {{- include "podlane.excluded" $root | nindent 10 }}
  {{- if ne $who "namespace" }}
  objectSelector:
    matchExpressions:
      - key: podlane.io/mode
        operator: {{ eq $who "pod" | ternary "In" "NotIn" }}
        values: [{{ eq $who "pod" | ternary "agent" "agent, sidecar, none" }}]
  {{- end }}
  matchConditions:
    - name: no-sidecar
      expression: >-
        !has(object.spec.initContainers) || !object.spec.initContainers.exists(each, each.name == "podlane")
    - name: limits-are-new
      expression: >-
        request.operation == "CREATE" ? {{ ne $who "default" }} || has(object.metadata.annotations)
        && object.metadata.annotations.exists(name, {{ include "podlane.ours" . }})
        : ({{ include "podlane.limitsChange" . | indent 8 | trim }})
{{- end }}
{{- end }}
{{- end -}}

{{/*
The webhooks for Pod templates, by which whoever applies a workload reads what is wrong in it. They hold no Pod to anything: Pods are
reviewed when they are created. So nobody waits for an injector here (Ignore), also where limits are enforced. The API server itself looks
(matchConditions) whether a template is new or has changed: no other change of an object is asked about, and what a controller has
made is that controller's business. Labels of a template are no labels of the object, so no objectSelector sees them. Its
"false" is read by the injector; its "true" in other namespaces is looked for here, lest all workloads of the cluster be asked about.
*/}}
{{- define "podlane.workloadWebhooks" -}}
{{- $root := . -}}
{{- range $who := $root.Values.agent.enabled | ternary (list "namespace" "pod" "enforced" "agent") (list "namespace" "pod" "enforced") }}
- name: {{ $who }}.workloads.{{ include "podlane.domain" $root }}
  {{- include "podlane.webhookCall" (dict "root" $root "path" (eq $who "enforced" | ternary "/validate/workloads/enforced" "/validate/workloads")) | nindent 2 }}
  rules:
    - apiGroups: [apps]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [deployments, statefulsets, daemonsets]
      scope: Namespaced
    - apiGroups: [batch]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [jobs, cronjobs]
      scope: Namespaced
  sideEffects: None
  failurePolicy: Ignore
  {{- include "podlane.namespaces" (dict "root" $root "who" $who) | nindent 2 }}
  matchConditions:
    - name: no-controller-made-it
      expression: >-
        !has(object.metadata.ownerReferences)
        || !object.metadata.ownerReferences.exists(owner, has(owner.controller) && owner.controller)
    - name: template-is-new
      expression: >-
        request.operation == "CREATE" || (has(object.spec.jobTemplate)
        ? object.spec.jobTemplate.spec.template != oldObject.spec.jobTemplate.spec.template
        : object.spec.template != oldObject.spec.template)
    {{- if eq $who "pod" }}
    - name: template-opts-in
      expression: >-
        {{ include "podlane.templateLabel" (dict "key" "podlane.io/inject" "values" (list "true")) }}
    {{- if $root.Values.revision }}
    - name: template-is-of-this-revision
      expression: >-
        {{ include "podlane.templateLabel" (dict "key" "podlane.io/rev" "values" (list $root.Values.revision)) }}
    {{- else if $root.Values.otherRevisions }}
    - name: template-is-of-no-other-revision
      expression: >-
        !{{ include "podlane.templateLabel" (dict "key" "podlane.io/rev" "values" $root.Values.otherRevisions) }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end -}}
