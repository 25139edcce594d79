export function Rollout() {
  return null;
}
