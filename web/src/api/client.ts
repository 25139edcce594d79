/** The control plane's API: typed by its OpenAPI document; every failure is a Problem with a remedy. */
import createClient, { type Middleware } from 'openapi-fetch';
import type { components, paths } from './schema';
import { viewAsHeader } from './viewAs';

export type Schemas = components['schemas'];
export type PolicyProblem = Schemas['PolicyProblem'];

/** RFC 9457, as the server sends it; also for what never reached it (status 0). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly remedy: string,
    readonly problems: PolicyProblem[] = [],
  ) {
    super(detail);
  }
}

let csrf = '';

/** What the session wants with every change. */
export function setCsrfToken(token: string | null): void {
  csrf = token ?? '';
}

/** What a response that is no success says, whoever has written it: a proxy on the way writes no problem. */
export async function problemOf(response: Response): Promise<Problem> {
  try {
    const said = (await response.clone().json()) as Partial<Schemas['ProblemDocument']>;
    if (said.title && said.detail) {
      return new Problem(response.status, said.title, said.detail, said.remedy ?? '', said.problems);
    }
  } catch {
    // No JSON: said below.
  }
  return new Problem(response.status, `HTTP ${response.status}`, response.statusText, '');
}

const middleware: Middleware = {
  onRequest({ request }) {
    const viewing = viewAsHeader();
    if (viewing) request.headers.set('Podlane-View-As', viewing);
    if (csrf && request.method !== 'GET') request.headers.set('X-CSRF-Token', csrf);
    return request;
  },
  async onResponse({ response }) {
    if (!response.ok) throw await problemOf(response);
    return response;
  },
  onError() {
    return new Problem(0, 'unreachable', '', '');
  },
};

export const api = createClient<paths>({ baseUrl: '/', credentials: 'same-origin' });
api.use(middleware);

/** The body of a response that was a success; failures were thrown before. */
export async function body<T>(answer: Promise<{ data?: T }>): Promise<T> {
  return (await answer).data as T;
}

/** A reason for the audit log, as a header can have it: in UTF-8. */
export function reasonHeader(text: string): string | undefined {
  return text ? String.fromCharCode(...new TextEncoder().encode(text)) : undefined;
}
