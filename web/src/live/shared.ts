/** One connection for all that a page looks at: opened by the first that looks, closed when nobody has for a while. */
import { type Asked, type Heard, LiveConnection, type Standing } from './connection';

/** Milliseconds for which it stays when nobody looks: the next page may. */
const KEPT = 10_000;

export class SharedConnection {
  private connection: LiveConnection | undefined;
  private standing: Standing | undefined;
  private readonly watchers = new Set<(standing: Standing) => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly connect = (stands: (standing: Standing) => void): LiveConnection => new LiveConnection(stands),
  ) {}

  /** Be told what is asked for, and how the connection stands, until what is returned is called. */
  look(asked: Asked, heard: (message: Heard) => void, stands: (standing: Standing) => void): () => void {
    const connection = this.opened();
    this.watchers.add(stands);
    if (this.standing) stands(this.standing);
    const end = connection.subscribe(asked, heard);
    return () => {
      end();
      this.watchers.delete(stands);
      this.closeLater();
    };
  }

  /** Connect before anybody looks, who then need not wait for it. */
  warm(): void {
    this.opened();
    this.closeLater();
  }

  private opened(): LiveConnection {
    clearTimeout(this.timer);
    this.connection ??= this.connect((standing) => {
      this.standing = standing;
      for (const each of this.watchers) each(standing);
    });
    return this.connection;
  }

  private closeLater(): void {
    clearTimeout(this.timer);
    if (this.watchers.size > 0) return;
    this.timer = setTimeout(() => {
      this.connection?.close();
      this.connection = undefined;
      this.standing = undefined;
    }, KEPT);
  }
}

export const live = new SharedConnection();
