/** A WebSocket to /v1/live that comes back by itself, and goes on where it was. */
import { Problem } from '../api/client';
import { parseFrame, type SeriesHead } from './frames';

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
/** Milliseconds without anything, not even `alive`, which comes after 15 s: then it is dead. */
const SILENT = 25_000;

export interface Asked {
  tenant: string;
  topic: string;
  [key: string]: unknown;
}

interface Subscription {
  asked: Asked;
  /** Of the last frame: a series and events go on from there. */
  cursor: number | undefined;
  heard: (message: Heard) => void;
}

export type Heard =
  | { kind: 'series'; head: SeriesHead; values: Float32Array }
  | { kind: 'message'; message: { type: string; id: number; [key: string]: unknown } }
  | { kind: 'problem'; problem: Problem };

export type Standing = { state: 'open' } | { state: 'away'; since: number };

export class LiveConnection {
  private socket: WebSocket | undefined;
  private readonly subscriptions = new Map<number, Subscription>();
  private next = 1;
  private wait = FIRST_WAIT;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private watch: ReturnType<typeof setInterval> | undefined;
  private heardAt = 0;
  private closed = false;

  constructor(
    private readonly stands: (standing: Standing) => void,
    private readonly open: () => WebSocket = defaultSocket,
  ) {
    this.connect();
  }

  subscribe(asked: Asked, heard: (message: Heard) => void): () => void {
    const id = this.next;
    this.next += 1;
    this.subscriptions.set(id, { asked, cursor: undefined, heard });
    this.ask(id);
    return () => {
      this.subscriptions.delete(id);
      if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: 'unsubscribe', id }));
    };
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    clearInterval(this.watch);
    // What is still on its way is for nobody: the page may have asked another thing meanwhile.
    this.subscriptions.clear();
    this.socket?.close();
  }

  private connect(): void {
    const socket = this.open();
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.heardAt = Date.now();
    socket.onopen = () => {
      for (const id of this.subscriptions.keys()) this.ask(id);
    };
    socket.onmessage = ({ data }) => {
      this.heardAt = Date.now();
      this.wait = FIRST_WAIT;
      if (typeof data === 'string') this.read(data);
      else this.readFrame(data as ArrayBuffer);
    };
    socket.onclose = () => this.lost(socket);
    clearInterval(this.watch);
    this.watch = setInterval(() => {
      if (Date.now() - this.heardAt > SILENT) {
        socket.onclose = null;
        socket.close();
        this.lost(socket);
      }
    }, 1000);
  }

  private lost(socket: WebSocket): void {
    if (this.closed || socket !== this.socket) return;
    clearInterval(this.watch);
    this.stands({ state: 'away', since: this.heardAt });
    // Not all at once, when a control plane comes back to many.
    this.timer = setTimeout(() => this.connect(), this.wait * (0.7 + Math.random() * 0.6));
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
  }

  private ask(id: number): void {
    const subscription = this.subscriptions.get(id);
    if (!subscription || this.socket?.readyState !== WebSocket.OPEN) return;
    const { asked, cursor } = subscription;
    this.socket.send(
      JSON.stringify({ ...asked, type: 'subscribe', id, ...(cursor === undefined ? {} : { after: cursor }) }),
    );
  }

  private read(text: string): void {
    if (this.closed) return;
    const message = JSON.parse(text) as { type: string; id: number; cursor?: number; problem?: Problem };
    if (message.type === 'welcome') this.stands({ state: 'open' });
    const subscription = this.subscriptions.get(message.id);
    if (!subscription) return;
    if (message.type === 'problem' && message.problem) {
      const { status, title, detail, remedy } = message.problem;
      subscription.heard({ kind: 'problem', problem: new Problem(status, title, detail, remedy) });
      this.subscriptions.delete(message.id);
      return;
    }
    if (message.cursor !== undefined) subscription.cursor = message.cursor;
    subscription.heard({ kind: 'message', message });
  }

  private readFrame(data: ArrayBuffer): void {
    const { head, values } = parseFrame(data);
    const subscription = this.subscriptions.get(head.id);
    if (!subscription) return;
    subscription.cursor = head.cursor;
    subscription.heard({ kind: 'series', head, values });
  }
}

function defaultSocket(): WebSocket {
  const { protocol, host } = window.location;
  return new WebSocket(`${protocol === 'https:' ? 'wss' : 'ws'}://${host}/v1/live`, 'podlane.live.v1');
}
