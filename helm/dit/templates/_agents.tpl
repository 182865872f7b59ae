{{/* An agent: one pod that keeps its folder. (dict "root" $ "part" "producer" "agent" . "toml" … "mounts" … "volumes" …) */}}

{{- define "dit.agent" -}}
{{- $name := printf "%s-%s-%s" (include "dit.fullname" .root) .part .agent.name -}}
{{- $part := dict "root" .root "part" .part "name" .agent.name -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dit.labels" $part | nindent 4 }}
data:
  {{ .part }}.toml: |
    {{- .toml | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dit.labels" $part | nindent 4 }}
    dit/observe: "true"
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "dit.selector" $part | nindent 4 }}
  ports:
    - {name: observe, port: 9464, targetPort: observe, protocol: TCP}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dit.labels" $part | nindent 4 }}
spec:
  # Two agents in one folder would be two writers under one name.
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels:
      {{- include "dit.selector" $part | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "dit.selector" $part | nindent 8 }}
      annotations:
        dit/configuration: {{ .toml | sha256sum }}
    spec:
      serviceAccountName: {{ include "dit.serviceAccount" .root }}
      {{- include "dit.podSecurity" .root | nindent 6 }}
      {{- with include "dit.pullSecrets" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      terminationGracePeriodSeconds: 30
      containers:
        - name: {{ .part }}
          image: {{ include "dit.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [{{ .part }}, run, --config, /etc/dit/config/{{ .part }}.toml]
          env:
            {{- include "dit.environment" .root | nindent 12 }}
          ports:
            - {name: observe, containerPort: 9464}
          {{- include "dit.probes" .root | nindent 10 }}
          {{- include "dit.containerSecurity" .root | nindent 10 }}
          resources:
            {{- toYaml .agent.resources | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/dit/config, readOnly: true}
            - {name: identity, mountPath: /etc/dit/identity, readOnly: true}
            - {name: data, mountPath: /data}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - name: config
          configMap: {name: {{ $name }}}
        {{- include "dit.identityVolume" .agent.identity.existingSecret | nindent 8 }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .agent.storage.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests: {storage: {{ .agent.storage.size }}}
{{- end -}}
