-- The health of a TrafficPolicy or ClusterTrafficPolicy for Argo CD: obj is the object, and what is returned its health.
-- Argo CD gives scripts few of Lua's libraries; this one needs none.
local hs = {status = "Progressing", message = "Podlane's operator has not looked at this policy yet."}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return hs
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local ready, reconciling = found.Ready, found.Reconciling
if ready == nil then
  return hs
end
hs.message = ready.message
if ready.status == "True" then
  hs.status = "Healthy"
elseif reconciling == nil or reconciling.status ~= "True" then
  hs.status = "Degraded"
end
return hs
