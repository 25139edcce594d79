/** What an agent answers about one of its workloads (docs/reference/control-plane.md). Pure. */

export interface InForce {
  workload: string;
  /** waiting, programmed, refused or failed. */
  state: string;
  reason: string;
  /** ebpf or step-aside; empty while nothing is in force. */
  datapath: string;
  datapathReason: string;
  interface: string;
  hash: string;
  /** As the agent has said it. Null: nothing is in force. */
  policy: Record<string, unknown> | null;
  /** Of it, as texts: whatever an agent says, this can be shown. */
  total: string;
  lanes: { name: string; rate: string; ceil: string; priority: string }[];
  /** Who says what is in force: a policy of the control plane, one of the cluster, or neither. */
  origin: { from: 'fleet' | 'cluster'; name: string } | { from: 'own' };
  /** Where each value comes from, in the agent's words; empty for an agent before 0.3. */
  values: { what: string; value: string; from: string }[];
  /** Policies that are for it, too, and why they do not count: whole sentences. */
  overruled: string[];
  warnings: string[];
  /** What another program has removed. */
  lost: string[];
}

/** The answer's fields are those of the agent's version: one that is not there is empty. */
export function inForceOf(answer: Record<string, unknown>): InForce {
  const text = (key: string) => (typeof answer[key] === 'string' ? (answer[key] as string) : '');
  const texts = (key: string) => (Array.isArray(answer[key]) ? (answer[key] as unknown[]).map(String) : []);
  const policy = isRecord(answer.policy) ? answer.policy : null;
  const lanes = Array.isArray(policy?.classes) ? policy.classes.filter(isRecord) : [];
  const [fleet, cluster] = [text('fleet_policy'), text('cluster_policy')];
  return {
    workload: text('name'),
    state: text('state'),
    reason: text('reason'),
    datapath: text('datapath'),
    datapathReason: text('datapath_reason'),
    interface: text('interface'),
    hash: text('hash'),
    policy,
    total: word(policy?.total),
    lanes: lanes.map(({ name, rate, ceil, priority }) => ({
      name: word(name),
      rate: word(rate),
      ceil: word(ceil),
      priority: word(priority),
    })),
    origin: fleet ? { from: 'fleet', name: fleet } : cluster ? { from: 'cluster', name: cluster } : { from: 'own' },
    values: (Array.isArray(answer.values) ? answer.values.filter(isRecord) : []).map((each) => ({
      what: word(each.what),
      value: word(each.value),
      from: word(each.from),
    })),
    overruled: texts('overruled'),
    warnings: texts('warnings'),
    lost: texts('lost'),
  };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  value !== null && typeof value === 'object' && !Array.isArray(value);

const word = (value: unknown) => (typeof value === 'string' || typeof value === 'number' ? String(value) : '–');

/** An agent as people write it: CLUSTER/NODE. Undefined: it is none. */
export function placeOf(text: string): { cluster: string; node: string } | undefined {
  const [, cluster, node] = /^\s*([a-z0-9.-]+)\/([a-z0-9.-]+)\s*$/.exec(text) ?? [];
  return cluster && node ? { cluster, node } : undefined;
}
