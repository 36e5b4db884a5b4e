local health = { status = "Progressing", message = "Waiting for the operator" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local ready, stalled, reconciling = found["Ready"], found["Stalled"], found["Reconciling"]
if ready ~= nil then
  health.message = ready.message
end
if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
elseif reconciling ~= nil and reconciling.status == "True" then
  health.status = "Progressing"
elseif ready ~= nil and ready.status == "True" then
  health.status = "Healthy"
elseif ready ~= nil and (ready.reason == "Suspended" or ready.reason == "ScaledToZero") then
  health.status = "Suspended"
end
return health
