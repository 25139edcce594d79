import { IconPlus } from '@tabler/icons-react';
import type { ReactNode } from 'react';
import { Fresh, type Looked, ProblemNote, Skeleton } from './parts';

interface ListPanelProps<Row> {
  title: string;
  query: Looked & { data: { items: Row[] } | undefined };
  /** What is said if there is nothing. */
  nothing?: string;
  /** Beside the title. */
  action?: ReactNode;
  /** Cells that name the columns, if these need names. */
  head?: ReactNode;
  /** A row of the table. */
  row: (row: Row) => ReactNode;
  /** Below: an AddForm. */
  add?: ReactNode;
  /** What has gone wrong with a change. */
  error?: unknown;
}

/** A short list, whole, and below it what adds another. */
export function ListPanel<Row>({ title, query, nothing, action, head, row, add, error }: ListPanelProps<Row>) {
  const rows = query.data?.items;
  return (
    <section className="panel" aria-label={title}>
      <div className="panel-head">
        <h2>{title}</h2>
        {action}
      </div>
      <Fresh query={query}>
        {!rows && (
          <div className="pad">
            <Skeleton width="100%" height={60} />
          </div>
        )}
        {rows?.length === 0 && <p className="sub diff-none">{nothing}</p>}
        {rows && rows.length > 0 && (
          <table className="table num">
            {head && (
              <thead>
                <tr>{head}</tr>
              </thead>
            )}
            <tbody>{rows.map(row)}</tbody>
          </table>
        )}
      </Fresh>
      {add}
      {error ? (
        <div className="pad">
          <ProblemNote error={error} />
        </div>
      ) : null}
    </section>
  );
}

interface AddFormProps {
  label: string;
  pending: boolean;
  add: () => void;
  /** The fields. */
  children: ReactNode;
}

/** Adds another to a short list. */
export function AddForm({ label, pending, add, children }: AddFormProps) {
  return (
    <form
      className="filters add"
      onSubmit={(event) => {
        event.preventDefault();
        add();
      }}
    >
      {children}
      <button type="submit" className="btn" disabled={pending}>
        <IconPlus size={15} aria-hidden />
        {label}
      </button>
    </form>
  );
}

interface AddInputProps {
  label: string;
  value: string;
  set: (value: string) => void;
  required?: boolean;
}

/** A field of an AddForm. */
export function AddInput({ label, value, set, required = true }: AddInputProps) {
  return (
    <input
      className="input"
      aria-label={label}
      placeholder={label}
      required={required}
      value={value}
      onChange={(event) => set(event.target.value)}
    />
  );
}
