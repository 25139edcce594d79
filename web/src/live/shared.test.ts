import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Heard, LiveConnection, type Standing } from './connection';
import { SharedConnection } from './shared';

/** The end of a WebSocket that is ours; what is written is kept. */
class Socket {
  readyState: number = WebSocket.CONNECTING;
  binaryType = '';
  sent: { type: string; id: number; topic?: string }[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  send = (text: string) => this.sent.push(JSON.parse(text));
  close() {
    this.readyState = WebSocket.CLOSED;
    this.onclose?.();
  }
  open() {
    this.readyState = WebSocket.OPEN;
    this.onopen?.();
    this.hears({ type: 'welcome' });
  }
  hears = (message: object) => this.onmessage?.({ data: JSON.stringify(message) });
}

let sockets: Socket[];
let shared: SharedConnection;

beforeEach(() => {
  vi.useFakeTimers();
  sockets = [];
  shared = new SharedConnection(
    (stands) =>
      new LiveConnection(stands, () => {
        sockets.push(new Socket());
        return sockets.at(-1) as unknown as WebSocket;
      }),
  );
});

afterEach(() => {
  vi.useRealTimers();
});

const look = (topic: string) => {
  const heard: Heard[] = [];
  const stood: Standing[] = [];
  const end = shared.look(
    { tenant: 'default', topic },
    (message) => heard.push(message),
    (standing) => stood.push(standing),
  );
  return { heard, stood, end };
};

test('all look by one connection, and each gets what it has asked for', () => {
  shared.warm();
  const first = look('series');
  sockets[0]?.open();
  const second = look('clusters');
  expect(sockets.length).toBe(1);
  expect(sockets[0]?.sent.map(({ type, id, topic }) => [type, id, topic])).toEqual([
    ['subscribe', 1, 'series'],
    ['subscribe', 2, 'clusters'],
  ]);
  sockets[0]?.hears({ type: 'window', id: 2, rows: [] });
  expect([first.heard.length, second.heard.length]).toEqual([0, 1]);
  expect([first.stood, second.stood]).toEqual([[{ state: 'open' }], [{ state: 'open' }]]);
});

test('it stays for the next page, and is closed when there is none', () => {
  const first = look('series');
  sockets[0]?.open();
  first.end();
  expect(sockets[0]?.sent.at(-1)?.type).toBe('unsubscribe');
  vi.advanceTimersByTime(9_000);
  const next = look('clusters');
  sockets[0]?.hears({ type: 'alive' });
  vi.advanceTimersByTime(15_000);
  sockets[0]?.hears({ type: 'alive' });
  expect(sockets.map((each) => each.readyState)).toEqual([WebSocket.OPEN]);
  next.end();
  vi.advanceTimersByTime(10_000);
  expect(sockets[0]?.readyState).toBe(WebSocket.CLOSED);
  look('series');
  expect(sockets.length).toBe(2);
});

test('what was opened early and is not looked at is closed', () => {
  shared.warm();
  vi.advanceTimersByTime(10_000);
  expect(sockets.map((each) => each.readyState)).toEqual([WebSocket.CLOSED]);
});
